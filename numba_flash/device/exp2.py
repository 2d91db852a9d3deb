"""2^x by multiply-adds, for softmax: no branch, so that the powers of a whole tile are computed side by side.

x = n + f with an integer n and |f| <= 1/2; 2^f is a polynomial, and 2^n a number whose exponent is n. Adding
1.5 * 2^52 (2^23 in float32) rounds x to an integer, which the sum's lowest bits then say.

float64 has no instruction for it. float32 has, `ex2`, but a multiprocessor executes 16 of them a cycle, and 128
multiply-adds.
"""

from __future__ import annotations

import numpy as np

from numba_flash.ptx import device, float32_of_bits, float32_to_bits, float64_of_bits, float64_to_bits

ROUND = np.float64(1.5 * 2.0**52)
ZERO, LEAST = np.float64(0), np.float64(-1022)  # the exponent of the smallest normal number
BIAS, MANTISSA = 1023, 52  # of a float64's exponent; bits behind it

# Interpolates 2^f in Chebyshev's points of [-1/2, 1/2]: 3e-18 off at most.
C0, C1, C2, C3, C4, C5, C6, C7, C8, C9, C10, C11 = (
    1.0, 0.6931471805599453, 0.24022650695910158, 0.055504108664821625, 0.009618129107587256, 0.001333355814640647,
    0.00015403530463724353, 1.5252733841556773e-05, 1.3215432535912375e-06, 1.0178057087733941e-07,
    7.074194297288521e-09, 4.4558179083360645e-10,
)  # fmt: skip


@device
def exp2_float64(x):
    """2^x to within 2 ulp for x < 1024; subnormal results are 0; NaN stays NaN."""
    rounded = x + ROUND
    f = x - (rounded - ROUND)
    power = C11 * f + C10  # multiply-adds
    power = power * f + C9
    power = power * f + C8
    power = power * f + C7
    power = power * f + C6
    power = power * f + C5
    power = power * f + C4
    power = power * f + C3
    power = power * f + C2
    power = power * f + C1
    power = power * f + C0
    scaled = power * float64_of_bits(float64_to_bits(rounded) + BIAS << MANTISSA)
    return ZERO if x < LEAST else scaled


ROUND_32 = np.float32(1.5 * 2.0**23)
LEAST_32 = np.float32(-127)  # below the exponent of the smallest normal number: 2^n is 0 there
ONE_BITS, MANTISSA_32 = 0x3F800000, 23  # of 1.0, whose exponent is 0

# Coefficients of the polynomial 1 + f * (...) whose relative error is least: 9.1e-8 on [-1/2, 1/2].
D1, D2, D3, D4, D5 = (
    np.float32(x) for x in (0.6931469775973, 0.2402224208407, 0.0555073374589, 0.0096715126991, 0.0013264726402)
)
ONE_32 = np.float32(1)


@device
def exp2_float32(x):
    """2^x to within 3 ulp for x < 128; what is less than the smallest normal number is 0; NaN stays NaN."""
    x = LEAST_32 if x < LEAST_32 else x
    rounded = x + ROUND_32
    f = x - (rounded - ROUND_32)
    power = D5 * f + D4  # multiply-adds
    power = power * f + D3
    power = power * f + D2
    power = power * f + D1
    power = power * f + ONE_32
    return power * float32_of_bits((float32_to_bits(rounded) << MANTISSA_32) + ONE_BITS)
