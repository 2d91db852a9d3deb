"""exp and tanh as plain arithmetic, which LLVM turns into SIMD code; calls into the C library would stay scalar.

    e^x = 2^n e^r,   n = round(x / ln 2),   r = x - n ln 2,   |r| <= ln 2 / 2

ln 2 is subtracted in two parts (Cody and Waite), so that r is exact to the last bits, and e^r - 1 is its Taylor
series, evaluated in r^2 two terms at a time: a shorter chain of dependent instructions than one at a time.
x / ln 2 + SHIFT, where SHIFT = 1.5 * 2^mantissa + bias, is rounded to an integer by the addition itself, and n + bias
is in its low bits: moved up into the exponent field, they are 2^n.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from numba_flash.cpu.compiling import OPTIONS, inner


def exp(x):
    """e^x within 1.1 ulp, for x up to 88 (float32) or 709 (float64); exactly 0 from -87.7 or -708.8 down."""
    return np.exp(x)


def tanh(x):
    """tanh(x) within 3 ulp."""
    return np.tanh(x)


def make_exponentials(real: Any, integer: Any, split_bits: int, degree: int) -> tuple[Any, Any]:
    """exp and tanh in one format, with ln 2 split after `split_bits` bits and a Taylor polynomial of odd degree."""
    limits = np.finfo(real)
    bias, mantissa = limits.maxexp - 1, integer(limits.nmant)
    ln2 = Decimal(2).ln()
    ln2_high = round(float(ln2) * 2.0**split_bits) / 2.0**split_bits
    LN2_HIGH, LN2_LOW = real(ln2_high), real(ln2 - Decimal(ln2_high))
    PER_LN2, SHIFT = real(1 / math.log(2)), real(1.5 * 2.0**limits.nmant + bias)
    LOWEST = real(-bias * math.log(2))  # n = -bias: the exponent field is 0, and so is the number
    taylor = [real(1 / math.factorial(power)) for power in range(degree + 1)]
    LAST, PAIRS = (taylor[-2], taylor[-1]), tuple((taylor[n], taylor[n + 1]) for n in range(degree - 3, 1, -2))
    TANH_IS_ONE = real(0.36 * (limits.nmant + 2))  # from here on 1 - tanh(x) = 2 e^(-2x) is under half an ulp
    ZERO, ONE, TWO = real(0), real(1), real(2)

    @inner
    def reduce(x):
        """(e^r - 1, 2^n)."""
        shifted = x * PER_LN2 + SHIFT
        n = shifted - SHIFT
        r = x - n * LN2_HIGH - n * LN2_LOW
        square = r * r
        series = LAST[0] + LAST[1] * r
        for even, odd in PAIRS:
            series = series * square + (even + odd * r)
        return series * square + r, integer(real(shifted).view(integer) << mantissa).view(real)

    def exp(x):
        e, power = reduce(LOWEST if x < LOWEST else x)
        return e * power + power

    def tanh(x):
        size = abs(x)
        e, power = reduce(TWO * size)
        u = e * power + (power - ONE)  # e^(2|x|) - 1, without cancellation near 0
        y = ONE if size > TANH_IS_ONE else u / (u + TWO)
        return y if x >= ZERO else -y

    return exp, tanh


EXPONENTIALS = {
    types.float32: make_exponentials(np.float32, np.int32, split_bits=9, degree=7),
    types.float64: make_exponentials(np.float64, np.int64, split_bits=32, degree=13),
}


@overload(exp, jit_options=OPTIONS)
def exp_of_format(x):
    return EXPONENTIALS[x][0]


@overload(tanh, jit_options=OPTIONS)
def tanh_of_format(x):
    return EXPONENTIALS[x][1]
