"""Arithmetic and conversions that Python has no word for: powers of 2, quick quotients, a choice, and 16-bit floats.

16-bit floats live in memory, and in 16-bit registers, as their bits (uint16); arithmetic on them is float32's.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numba.types import boolean, float32, float64, int64, uint16, uint32, unliteral

from numba_flash.ptx.codegen import emitted, instruction

SMALLEST_NORMAL = np.float32(2.0**-126)
NAN = np.uint32(0x7FFFFFFF).view(np.float32)


def emit_choice(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.select(*args)


def type_choice(condition: Any, x: Any, y: Any) -> Any:
    x, y = (unliteral(t) for t in (x, y))
    return (x(boolean, x, x), emit_choice) if x == y else None


@emitted(type_choice)
def choose(condition: Any, x: Any, y: Any) -> Any:
    """x where the condition holds, else y, of one type; both are there, and nothing branches."""
    return x if condition else y


@instruction("ex2.approx.ftz.f32 $0, $1;", reads=[float32], writes=[float32])
def ex2(x: Any) -> Any:
    """2^x in float32 to within 2 ulp; subnormal results are 0."""
    with np.errstate(over="ignore"):
        y = np.float32(np.exp2(np.float64(x)))  # NumPy's float32 exp2 is less exact on some processors
    return np.float32(0) if y < SMALLEST_NORMAL else y


@instruction("rcp.approx.ftz.f32 $0, $1;", reads=[float32], writes=[float32])
def reciprocal(x: Any) -> Any:
    """1 / x in float32 to within 1 ulp; subnormal numbers, x too, are 0."""
    with np.errstate(all="ignore"):
        return without_subnormal(np.float32(1) / without_subnormal(np.float32(x)))


@instruction("div.full.f32 $0, $1, $2;", reads=[float32, float32], writes=[float32])
def divide(x: Any, y: Any) -> Any:
    """x / y in float32 to within 2 ulp, without the branches of an exact division."""
    with np.errstate(all="ignore"):
        return np.float32(x) / np.float32(y)


def without_subnormal(x: Any) -> Any:
    """A float32, or 0 of its sign for a subnormal one, in the simulator."""
    return np.copysign(np.float32(0), x) if abs(x) < SMALLEST_NORMAL else x


@instruction("cvt.f32.f16 $0, $1;", reads=[uint16], writes=[float32])
def float16_to_float32(bits: Any) -> Any:
    """The float32 equal to a float16, given as bits; NaN gives 0x7FFFFFFF."""
    x = np.float32(np.uint16(bits).view(np.float16))
    return NAN if np.isnan(x) else x


@instruction("cvt.rn.f16.f32 $0, $1;", reads=[float32], writes=[uint16])
def float32_to_float16(x: Any) -> Any:
    """The bits of the nearest float16, ties to even; beyond 65504 infinity; NaN gives 0x7FFF."""
    return nearest_float16(x)


@instruction("mov.b32 $0, {0, $1};", reads=[uint16], writes=[float32])
def bfloat16_to_float32(bits: Any) -> Any:
    """The float32 whose upper half is a bfloat16, given as bits."""
    return (np.uint32(bits) << np.uint32(16)).view(np.float32)


# cvt.rn.bf16.f32 needs sm_80; adding half a unit, and one if that leaves a tie odd, rounds the same on every GPU.
ROUND_TO_BFLOAT16 = """{
.reg .pred is_nan;
.reg .b32 bits, odd;
mov.b32 bits, $1;
bfe.u32 odd, bits, 16, 1;
add.u32 bits, bits, odd;
add.u32 bits, bits, 0x7FFF;
shr.u32 bits, bits, 16;
setp.nan.f32 is_nan, $1, $1;
selp.b32 bits, 0x7FC0, bits, is_nan;
cvt.u16.u32 $0, bits;
}"""


@instruction(ROUND_TO_BFLOAT16, reads=[float32], writes=[uint16])
def float32_to_bfloat16(x: Any) -> Any:
    """The bits of the nearest bfloat16, ties to even; NaN gives 0x7FC0."""
    return nearest_bfloat16(x, 0x7FC0)


@instruction("cvt.rn.f16x2.f32 $0, $2, $1;", reads=[float32, float32], writes=[uint32])
def float32_to_float16x2(low: Any, high: Any) -> Any:
    """The bits of two nearest float16, `low` in the lower half; sm_80. As `float32_to_float16`."""
    return packed(nearest_float16(low), nearest_float16(high))


@instruction("cvt.rn.bf16x2.f32 $0, $2, $1;", reads=[float32, float32], writes=[uint32])
def float32_to_bfloat16x2(low: Any, high: Any) -> Any:
    """The bits of two nearest bfloat16, ties to even, `low` in the lower half; sm_80. NaN gives 0x7FFF."""
    return packed(nearest_bfloat16(low, 0x7FFF), nearest_bfloat16(high, 0x7FFF))


@instruction("cvt.rna.tf32.f32 $0, $1;", reads=[float32], writes=[uint32])
def float32_to_tf32(x: Any) -> Any:
    """The bits of the nearest float32 with ten bits of fraction, ties away from zero; sm_80. NaN stays NaN."""
    x = NAN if np.isnan(x) else np.float32(x)
    bits = x.view(np.uint32)
    return (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000) if np.isfinite(x) else bits


def nearest_float16(x: Any) -> Any:
    """The bits of the nearest float16, in the simulator."""
    return np.uint16(0x7FFF) if np.isnan(x) else np.float16(x).view(np.uint16)


def nearest_bfloat16(x: Any, nan: int) -> Any:
    """The bits of the nearest bfloat16, or those given for NaN, in the simulator."""
    return np.uint16(nan) if np.isnan(x) else np.float32(x).astype(ml_dtypes.bfloat16).view(np.uint16)


def packed(low: Any, high: Any) -> Any:
    """Two 16-bit numbers in 32 bits."""
    return np.uint32(int(low) | int(high) << 16)


@instruction("mov.b32 $0, $1;", reads=[float32], writes=[uint32])
def float32_to_bits(x: Any) -> Any:
    """The bits of a float32."""
    return np.float32(x).view(np.uint32)


@instruction("mov.b32 $0, $1;", reads=[uint32], writes=[float32])
def float32_of_bits(bits: Any) -> Any:
    """The float32 with these bits, of which the lowest 32 count."""
    return np.uint32(int(bits) & 0xFFFFFFFF).view(np.float32)


@instruction("mov.b64 $0, $1;", reads=[float64], writes=[int64])
def float64_to_bits(x: Any) -> Any:
    """The bits of a float64, as an integer."""
    return np.float64(x).view(np.int64)


@instruction("mov.b64 $0, $1;", reads=[int64], writes=[float64])
def float64_of_bits(bits: Any) -> Any:
    """The float64 with these bits."""
    return np.int64(bits).view(np.float64)
