"""The local memory of a thread."""

from __future__ import annotations

from typing import Any

import numpy as np

from .memory import Shape, as_dtype, as_shape, unwritten


def local_array(shape: Shape, dtype: Any, alignment: int | None = None) -> np.ndarray:
    """`cuda.local.array`: the thread's own array, all bits set (NaN, -1) until written; `alignment` means nothing here.

    As in compiled kernels, negative indices count from the end.
    """
    return unwritten(as_shape(shape), as_dtype(dtype))
