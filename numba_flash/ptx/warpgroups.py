"""Tensor cores of sm_90a: products of matrices in shared memory by a warpgroup, four warps, asynchronously.

A warpgroup starts at a thread whose number is a multiple of 128. All of its threads execute these instructions
together. A product adds A (64 x 16) @ B (16 x n) to an accumulator (64 x n): warp w has rows 16*w to 16*w + 15, in
fragments of 16 x 8 side by side, as `tiling.accumulator_place` says, n / 2 float32 a thread. A lies in shared memory or
in registers, a fragment of 16 x 16 a warp (`tiling.a_place`); B lies in shared memory.

Shared matrices have rows of 128 bytes, swizzled as `load_box` leaves them: 64 elements along the depth, or (`across`)
along the other axis. Where one starts, and how far its parts are from one another, is told by a `matrix_descriptor`.

Products run one after the other, while their threads go on. Neither the accumulator, nor A in registers, nor shared
operands may be touched before `wgmma_wait`; after it, `pin` the accumulator, and before the next product that takes a
register which threads have used, `wgmma_fence`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
from numba import types
from numba.types import int64, uint64

from numba_flash import simulator
from numba_flash.config import ROW_BYTES, WARPS
from numba_flash.ptx.arithmetic import NAN
from numba_flash.ptx.codegen import (
    device,
    dynamic_shared,
    emit_tied,
    emitted,
    instruction,
    load_registers,
    narrow_pointer,
    store_registers,
    with_literal,
)
from numba_flash.ptx.matrices import places
from numba_flash.tiling import a_place, accumulator_place

ROWS, DEPTH = 64, 16  # of a product
EIGHT_ROWS = 8 * ROW_BYTES
KINDS = {"float16": ("f16", np.float16), "bfloat16": ("bf16", ml_dtypes.bfloat16)}
SWIZZLE_128 = 1 << 62  # in a descriptor


def _shared_address(offset: Any) -> Any:
    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        start = narrow_pointer(builder, dynamic_shared(builder, 0), 3)
        return builder.add(start, context.cast(builder, args[0], offset, types.uint32))

    return types.uint32(offset), emit


@emitted(_shared_address)
def shared_address(offset: Any) -> Any:
    """The address of byte `offset` of the block's dynamic shared memory, which starts on a multiple of 1024."""
    return simulator.BASE + int(offset)


def descriptor_layout(apart: int) -> int:
    """What a descriptor says but for the address: how many bytes `apart` neighbouring parts of 64 elements are.

    Parts follow one another along the axis that is not the depth, of matrices that lie `across`; for others the number
    means nothing.
    """
    return SWIZZLE_128 | (EIGHT_ROWS >> 4) << 32 | (apart >> 4 & 0x3FFF) << 16


@device
def matrix_descriptor(address, layout):
    """The descriptor of a matrix at an address; that of one so many bytes behind it is bytes // 16 more."""
    return int64(address) >> 4 & 0x3FFF | layout


@instruction("wgmma.fence.sync.aligned;", memory=True, convergent=True)
def wgmma_fence() -> None:
    """Let products that come have the registers that this thread has used."""
    simulator.warpgroup.fence_registers()


@instruction("wgmma.commit_group.sync.aligned;", memory=True, convergent=True)
def wgmma_commit() -> None:
    """Close the group of the products that the warpgroup has started since the last commit."""
    simulator.warpgroup.commit()


@emitted(with_literal("wgmma.wait_group.sync.aligned NUMBER;", convergent=True))
def wgmma_wait(pending: int) -> None:
    """Wait until at most the `pending` (a literal) youngest groups of the warpgroup's products are in flight."""
    simulator.warpgroup.wait(pending)


def _pin(acc: Any, n: Any) -> Any:
    if not isinstance(n, types.IntegerLiteral):
        return None

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        zero = context.get_constant(types.intp, 0)
        place = (context, builder, acc, args[0], types.intp, zero)
        registers = load_registers(*place, n.literal_value)
        store_registers(*place, emit_tied(context, builder, "", acc.dtype, registers, []))
        return context.get_dummy_value()

    return types.void(acc, n), emit


@emitted(_pin)
def pin(acc: Any, n: int) -> None:
    """Say that the n (a literal) registers of an accumulator are there: the compiler moves no use of them before this.

    It takes no instruction.
    """
    simulator.warpgroup.check_landed(acc)


# ptxas moves a wait upwards past arithmetic, but not past what may or may not happen, as x turns out.
AWAIT = "{ .reg .pred never; setp.lt.f32 never, $0, 0fFF800000; @never nanosleep.u32 1; }"


@instruction(AWAIT, reads=[types.float32], memory=True)
def await_number(x: Any) -> None:
    """Have x computed before any instruction that is written behind this, such as `wgmma_wait`, begins."""


@instruction("mov.b32 $0, $1;", reads=[types.uint32], writes=[types.uint32], memory=True)
def opaque(address: Any) -> Any:
    """The same address, but the compiler does not know: in a loop it derives others from it anew and keeps none."""
    return address


@emitted(with_literal("setmaxnreg.dec.sync.aligned.u32 NUMBER;", convergent=True))
def give_registers(count: int) -> None:
    """Keep so many registers a thread (a literal, a multiple of 8, 24 or more) and leave the rest to other warps."""
    simulator.register_pool.set_registers(count, grows=False)


@emitted(with_literal("setmaxnreg.inc.sync.aligned.u32 NUMBER;", convergent=True))
def take_registers(count: int) -> None:
    """Wait until so many registers a thread (a literal, a multiple of 8, 256 or less) are to be had, and take them."""
    simulator.register_pool.set_registers(count, grows=True)


@cache
def make_wgmma(columns: int, dtype: str, a_across: bool = False, b_across: bool = True) -> Any:
    """Make wgmma(acc, a, b, keep): acc = A @ B, plus what it held if `keep`; a, b are matrix descriptors.

    columns : of the product, a multiple of 8, 256 at most
    dtype : "float16" or "bfloat16"
    a_across, b_across : do rows of shared memory lie along A's rows (B's columns), rather than along the depth?
    """
    text = _product(columns, dtype, 0, f"{int(a_across)}, {int(b_across)}")
    compute = _make_compute(columns, dtype, a_across, b_across)

    def typing(acc: Any, a: Any, b: Any, keep: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            operands = [
                (want, context.cast(builder, x, have, want))
                for x, have, want in zip(args[1:], (a, b, keep), (uint64, uint64, types.int32), strict=True)
            ]
            _emit_product(context, builder, text, acc, args[0], columns, operands)
            return context.get_dummy_value()

        return types.void(acc, a, b, keep), emit

    @emitted(typing)
    def wgmma(acc: Any, a: Any, b: Any, keep: Any) -> None:
        simulator.warpgroup.issue(acc, (), (int(a), int(b), bool(keep)), compute)

    return wgmma


@cache
def make_wgmma_registers(columns: int, dtype: str, b_across: bool = True) -> Any:
    """Make wgmma_registers(acc, a, n, b): acc += A @ B, A is fragment n of a, four uint32 a thread."""
    text = _product(columns, dtype, 4, f"{int(b_across)}")
    compute = _make_compute_registers(columns, dtype, b_across)

    def typing(acc: Any, a: Any, n: Any, b: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            words = load_registers(context, builder, a, args[1], n, args[2], 4)
            operands = [(types.uint32, word) for word in words]
            operands.append((uint64, context.cast(builder, args[3], b, uint64)))
            operands.append((types.int32, context.get_constant(types.int32, 1)))
            _emit_product(context, builder, text, acc, args[0], columns, operands)
            return context.get_dummy_value()

        return types.void(acc, a, n, b), emit

    @emitted(typing)
    def wgmma_registers(acc: Any, a: Any, n: Any, b: Any) -> None:
        simulator.warpgroup.issue(acc, (a,), (int(n), int(b)), compute)

    return wgmma_registers


def _product(columns: int, dtype: str, registers: int, across: str) -> str:
    """The statement over accumulators, which count as written and as read, A (0 registers: a descriptor), B, keep."""
    kind, _ = KINDS[dtype]
    sums = ", ".join(f"${n}" for n in range(columns // 2))
    a = "{" + ", ".join(f"${columns + n}" for n in range(registers)) + "}" if registers else f"${columns}"
    b = columns + max(registers, 1)
    product = f"wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{kind}.{kind}"
    keep = f".reg .pred keep; setp.ne.b32 keep, ${b + 1}, 0;"
    return f"{{ {keep} {product} {{{sums}}}, {a}, ${b}, keep, 1, 1, {across}; }}"


def _emit_product(
    context: Any, builder: Any, text: str, acc: Any, sums: Any, columns: int, operands: list[Any]
) -> None:
    """Emit it over accumulators, which are changed in place, and (type, value) operands: A, B, keep."""
    place = (context, builder, acc, sums, types.intp, context.get_constant(types.intp, 0))
    registers = load_registers(*place, columns // 2)
    store_registers(*place, emit_tied(context, builder, text, types.float32, registers, operands))


def _make_compute(columns: int, dtype: str, a_across: bool, b_across: bool) -> Callable[..., None]:
    """What the twin of `make_wgmma` does."""

    def compute(thread: Any, sums: Any, _: Any, uniform: tuple[int, int, bool]) -> None:
        a, b, keep = uniform
        A = _shared_matrix(thread, a, ROWS, a_across, dtype)
        _add_product(sums, A, _shared_matrix(thread, b, columns, b_across, dtype).T, keep)

    return compute


def _make_compute_registers(columns: int, dtype: str, b_across: bool) -> Callable[..., None]:
    """What the twin of `make_wgmma_registers` does."""

    def compute(thread: Any, sums: Any, operands: Any, uniform: tuple[int, int]) -> None:
        n, b = uniform
        words = np.array([a[4 * n : 4 * n + 4] for (a,) in operands])
        A = np.empty((ROWS, DEPTH))
        A[A_PLACES] = words.view(KINDS[dtype][1])
        _add_product(sums, A, _shared_matrix(thread, b, columns, b_across, dtype).T, True)

    return compute


def _places(place: Callable[[int, int], tuple[int, int]], elements: int) -> tuple[Any, Any]:
    """The rows and columns, in a warpgroup's 64 rows, of all elements of all its threads."""
    rows, columns = places(place, elements)
    return np.concatenate([rows + 16 * warp for warp in range(WARPS)]), np.tile(columns, (WARPS, 1))


A_PLACES, C_PLACES = _places(a_place, 8), _places(accumulator_place, 4)


def _add_product(sums: Any, A: Any, B: Any, keep: bool) -> None:
    """sums = A @ B, plus what they hold: exact products, the sum of all rounded once."""
    rows, columns = C_PLACES
    with np.errstate(all="ignore"):
        C = A @ B
    for first in range(0, C.shape[1], 8):
        fragment = slice(first // 2, first // 2 + 4)
        new = C[rows, first + columns]
        if keep:
            new += np.array([x[fragment] for x in sums])
        new = new.astype(np.float32)
        for x, values in zip(sums, np.where(np.isnan(new), NAN, new), strict=True):
            x[fragment] = values


def _shared_matrix(thread: Any, descriptor: int, length: int, across: bool, dtype: str) -> Any:
    """The (length, 16) matrix that a descriptor points to."""
    start, apart, eight = ((descriptor >> bit & 0x3FFF) << 4 for bit in (0, 16, 32))
    if descriptor >> 62 != 1 or descriptor >> 49 & 7:
        raise ValueError(f"{thread}: descriptor {descriptor:#018x} is none of a matrix with 128-byte swizzle")
    along, depth = np.arange(length)[:, None], np.arange(DEPTH)
    if across:
        places = along // 64 * apart + depth // 8 * eight + depth % 8 * ROW_BYTES + along % 64 * 2
    else:
        places = along // 8 * eight + along % 8 * ROW_BYTES + depth * 2
    bits = simulator.warpgroup.read_shared(thread, start, places, "an operand of wgmma")
    return bits.view(KINDS[dtype][1]).astype(np.float64)
