"""Memory that nobody has written yet."""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

import numpy as np
from numba import types
from numba.np import numpy_support

UNWRITTEN = b"\xff"  # every byte: NaN in every float format

Shape = int | tuple[int, ...]


@cache
def as_dtype(dtype: Any) -> np.dtype[Any]:
    """The NumPy dtype of a numba type, or of anything that NumPy takes for a dtype."""
    return numpy_support.as_dtype(dtype) if isinstance(dtype, types.Type) else np.dtype(dtype)


def as_shape(shape: Shape) -> tuple[int, ...]:
    """A shape as a tuple."""
    return shape if isinstance(shape, tuple) else (shape,)


def unwritten(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """A new array, all bits set."""
    return np.ndarray(shape, dtype, bytearray(UNWRITTEN * (prod(shape) * dtype.itemsize)))


def unwritten_at(shape: tuple[int, ...], dtype: np.dtype[Any], alignment: int) -> np.ndarray:
    """A new array, all bits set, whose address is a multiple of `alignment`, but not of twice as much.

    Hardware promises no more than that, so what needs more fails here too.
    """
    raw = unwritten((prod(shape) * dtype.itemsize + 2 * alignment,), np.dtype(np.uint8))
    return np.ndarray(shape, dtype, raw, (alignment - address(raw)) % (2 * alignment))


def address(array: np.ndarray) -> int:
    """Where the first element lies."""
    return array.__array_interface__["data"][0]
