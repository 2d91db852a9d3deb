"""What the numbers in q, k and v are like: ordinary ones, and those that break careless softmaxes.

Large ones are integers or quarters, so that products are exact and a score of 10^4 is not drowned in its own rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from numba_flash.reference import Array

Shapes = tuple[tuple[int, ...], ...]
Rng = np.random.Generator


def normal(rng: Rng, shapes: Shapes) -> list[Array]:
    """Standard normal."""
    return [rng.standard_normal(shape) for shape in shapes]


def large(rng: Rng, shapes: Shapes) -> list[Array]:
    """Scores of about +-10^4."""
    q, k, v = normal(rng, shapes)
    return [np.rint(100 * q), np.rint(100 * k), v]


def overflow(rng: Rng, shapes: Shapes) -> list[Array]:
    """Scores of about +-100; e^x overflows float32 at 88.72."""
    q, k, v = normal(rng, shapes)
    return [np.rint(40 * q) / 4, np.rint(40 * k) / 4, v]


def constant(rng: Rng, shapes: Shapes) -> list[Array]:
    """All keys are alike: P is uniform over what a row sees."""
    return [np.full(shape, value) for shape, value in zip(shapes, (1.0, 0.5, 0.75), strict=True)]


def one_hot(rng: Rng, shapes: Shapes) -> list[Array]:
    """Rows of q and k have one element, 16: scores are 256*scale or 0."""
    q_shape, k_shape, v_shape = shapes
    q, k = (16.0 * (np.arange(s[-1]) == rng.integers(s[-1], size=(*s[:-1], 1))) for s in (q_shape, k_shape))
    return [q, k, rng.standard_normal(v_shape)]


def zeros(rng: Rng, shapes: Shapes) -> list[Array]:
    """+0 and -0."""
    return [np.copysign(0.0, rng.standard_normal(shape)) for shape in shapes]


REGIMES: dict[str, Any] = {regime.__name__: regime for regime in (normal, large, overflow, constant, one_hot, zeros)}
