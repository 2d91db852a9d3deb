"""Rows of scores for softmax: a case and its hypothesis strategy."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from numba_flash.problem import FLOATS
from numba_flash.reference import Array
from numba_flash.testing.layouts import LAYOUTS
from numba_flash.testing.strategies import sizes

# What scores are like, made from normal ones: ordinary, beyond float32's e^88.72, of about +-10^4, all alike.
SCORES: dict[str, Callable[[Array], Array]] = {
    "normal": lambda x: x,
    "overflow": lambda x: np.rint(400 * x) / 4,
    "large": lambda x: np.rint(1e4 * x),
    "constant": lambda x: np.full_like(x, 100.0),
}


@dataclass(frozen=True)
class SoftmaxCase:
    """softmax(x): x's shape, dtype, layout and kind of scores; `hidden`: is some of it -inf, and some whole rows?"""

    shape: tuple[int, ...]
    dtype: str = "float32"
    layout: str = "contiguous"
    scores: str = "normal"
    hidden: bool = False
    seed: int = 0

    @property
    def real(self) -> str:
        """The dtype of arithmetic."""
        return "float64" if self.dtype == "float64" else "float32"

    def rng(self, stream: int = 1) -> np.random.Generator:
        """Random numbers for a property's own choices; the case's data comes from stream 0."""
        return np.random.default_rng([self.seed, stream])

    def array(self) -> Array:
        """x."""
        rng = self.rng(0)
        x = SCORES[self.scores](rng.standard_normal(self.shape))
        if self.hidden:
            x[rng.random(self.shape) < 1 / 3] = -np.inf
            x[rng.random(self.shape[:-1]) < 1 / 3] = -np.inf
        return self.laid_out(x.astype(self.dtype))

    def laid_out(self, x: Array) -> Array:
        """The values of x in the case's layout."""
        missing = max(0, 3 - x.ndim)  # layouts are of arrays with three axes or more
        return LAYOUTS[self.layout](x[(None,) * missing])[(0,) * missing]


@st.composite
def softmax_cases(
    draw: Callable[[Any], Any],
    *,
    tile: int = 8,
    max_size: int = 19,
    dtypes: Collection[str] = FLOATS,
    layouts: Collection[str] = ("contiguous", "transposed", "padded", "misaligned", "strided", "backward"),
    scores: Collection[str] = tuple(SCORES),
) -> SoftmaxCase:
    """Arrays of one to four axes, the last of a length that straddles `tile`, up to `max_size`."""
    lead = draw(st.sampled_from(((), (1,), (3,), (2, 3), (2, 1, 2))))
    return SoftmaxCase(
        shape=(*lead, draw(sizes(tile, max_size))),
        dtype=draw(st.sampled_from(sorted(dtypes))),
        layout=draw(st.sampled_from(list(layouts))),
        scores=draw(st.sampled_from(list(scores))),
        hidden=draw(st.booleans()),
        seed=draw(st.integers(0, 2**16 - 1)),
    )
