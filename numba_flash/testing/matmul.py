"""Matrix products: a case and its hypothesis strategy."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from numba_flash.problem import FLOATS
from numba_flash.reference import Array
from numba_flash.testing.layouts import LAYOUTS
from numba_flash.testing.strategies import broadcastable, sizes


@dataclass(frozen=True)
class MatmulCase:
    """a @ b: shapes (..., M, K) and (..., K, N), dtypes, layouts of a and b, and the seed of their normal values."""

    a: tuple[int, ...]
    b: tuple[int, ...]
    dtype: str = "float32"
    out_dtype: str | None = None
    layouts: tuple[str, str] = ("contiguous", "contiguous")
    seed: int = 0

    def arrays(self) -> tuple[Array, Array]:
        """a and b."""
        rng = np.random.default_rng(self.seed)
        values = (rng.standard_normal(shape).astype(self.dtype) for shape in (self.a, self.b))
        a, b = (LAYOUTS[how](x) for how, x in zip(self.layouts, values, strict=True))
        return a, b


@st.composite
def matmul_cases(
    draw: Callable[[Any], Any],
    *,
    tile: int = 8,
    max_size: int = 19,
    dtypes: Collection[str] = FLOATS,
    layouts: Collection[str] = ("contiguous", "columns", "padded", "misaligned", "strided", "backward"),
) -> MatmulCase:
    """Matrix products whose sizes straddle `tile`, up to `max_size`; up to two leading axes, which broadcast."""
    M, N, K = (draw(sizes(tile, max_size)) for _ in range(3))
    lead = draw(st.sampled_from(((), (1,), (2,), (3, 2))))
    dtype = draw(st.sampled_from(sorted(dtypes)))
    return MatmulCase(
        a=(*draw(broadcastable(lead)), M, K),
        b=(*lead, K, N),
        dtype=dtype,
        out_dtype=draw(st.none() | st.just("float64" if dtype == "float64" else "float32")),
        layouts=draw(st.tuples(*[st.sampled_from(list(layouts))] * 2)),
        seed=draw(st.integers(0, 2**16 - 1)),
    )
