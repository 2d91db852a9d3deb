"""tanh in float32 without a branch, so that those of a whole tile are computed side by side.

Far from 0, tanh|x| = 1 - 2 / (e^(2|x|) + 1). Near 0 that subtracts numbers of one size, and a polynomial takes its
place: both are computed, and one is chosen.
"""

from __future__ import annotations

import math

import numpy as np

from numba_flash.ptx import choose, device, ex2, reciprocal

NEAR = np.float32(0.5)
ZERO, ONE, TWO, TWO_LOG2_E = (np.float32(x) for x in (0, 1, 2, 2 * math.log2(math.e)))

# tanh(x) = x + x^3 * (T0 + T1 x^2 + ...): the polynomial whose relative error is least, 3e-9 on [-0.6, 0.6].
T0, T1, T2, T3, T4 = (
    np.float32(x) for x in (-0.3333329927, 0.1333195821, -0.0537866807, 0.0208053748, -0.0059058572)
)  # fmt: skip


@device
def tanh_float32(x):
    """tanh(x) within 4 ulp; NaN stays NaN."""
    size, square = abs(x), x * x
    far = ONE - TWO * reciprocal(ex2(size * TWO_LOG2_E) + ONE)
    power = T4 * square + T3  # multiply-adds
    power = power * square + T2
    power = power * square + T1
    power = power * square + T0
    near = x * square * power + x
    return choose(size < NEAR, near, choose(x < ZERO, -far, far))
