"""The shared memory of a block: its dynamic part, and the arrays that the kernel declares."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from .callpath import CallPath
from .counting import counted
from .memory import Shape, address, as_dtype, as_shape, unwritten_at
from .thread import current

if TYPE_CHECKING:
    from .async_proxy import AsyncProxy

DYNAMIC_ALIGNMENT = 1024


class SharedMemory:
    """Every byte starts as 0xFF.

    Attributes
    ----------
    dynamic : uint8 array
        The dynamic shared memory; it starts on a multiple of 1024 bytes, at `address` in the host's memory.
    declared : dict
        The array of each declaration.
    proxy : AsyncProxy or None
        What asynchronous units see of the dynamic shared memory, once a kernel has asked for one.
    """

    def __init__(self, nbytes: int) -> None:
        self.dynamic = unwritten_at((nbytes,), np.dtype(np.uint8), DYNAMIC_ALIGNMENT)
        self.address = address(self.dynamic)
        self.declared: dict[CallPath, np.ndarray] = {}
        self.proxy: AsyncProxy | None = None


def shared_array(shape: Shape, dtype: Any, alignment: int | None = None) -> np.ndarray:
    """`cuda.shared.array`: one array for all threads of the block, all bits set (NaN, -1) until written.

    Every declaration is its own array, and so is that of a helper at every place that calls it. As in compiled
    kernels, negative indices count from the end.

    Parameters
    ----------
    shape : int or tuple of int
        0 is the dynamic shared memory, as many whole elements as it holds.
    dtype : numba type or NumPy dtype
    alignment : int, optional
        Of the address in bytes, a power of 2; by default the item size.

    Raises
    ------
    ValueError
        If two threads declare the array with different shapes or dtypes.
    """
    block, dtype, shape = current().block, as_dtype(dtype), as_shape(shape)
    shared = block.shared
    if shape == (0,):
        return counted(shared.dynamic[: shared.dynamic.size // dtype.itemsize * dtype.itemsize].view(dtype))
    declaration = block.sites.path(sys._getframe(1))
    array = shared.declared.get(declaration)
    if array is None:
        array = shared.declared[declaration] = unwritten_at(shape, dtype, alignment or dtype.itemsize)
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"one declaration of a shared array is both {array.shape} {array.dtype} and {shape} {dtype}")
    return counted(array)
