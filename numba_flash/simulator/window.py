"""Typed windows into the dynamic shared memory of a block."""

from __future__ import annotations

from math import prod
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from .counting import CountedArray, Tally, current_tally
from .errors import MemoryFault
from .memory import Shape, as_dtype, as_shape
from .thread import current

if TYPE_CHECKING:
    from .shared import SharedMemory

SIGNED = frozenset({int, np.int8, np.int16, np.int32, np.int64, np.longlong})

getitem, setitem = np.ndarray.__getitem__, np.ndarray.__setitem__


class SharedWindow(np.ndarray):
    """An array that refuses negative integers as indices: they would be addresses before its first element.

    Attributes
    ----------
    address : int
        Of the first element, in the host's memory.
    cells : ndarray or None
        The same elements in one dimension, unchecked; None for views.
    tally : Tally or None
        Where accesses are counted, if they are.
    shared : SharedMemory or None
        The memory in which it lies.
    """

    address = 0
    shared: SharedMemory | None = None
    cells: np.ndarray | None = None
    tally: Tally | None = None

    def __getitem__(self, key: Any) -> Any:
        _refuse_negative(self, key)
        return getitem(self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        _refuse_negative(self, key)
        setitem(self, key, value)
        if self.shared is not None and self.shared.proxy is not None:
            view = getitem(self, key)
            if not isinstance(view, np.ndarray):
                view = getitem(self, (*key, ...) if type(key) is tuple else (key, ...))
            self._note(*byte_bounds(view))

    def __array_finalize__(self, source: Any) -> None:
        self.shared = getattr(source, "shared", None)

    def wrote(self, k: int, n: int) -> None:
        """Elements k .. k + n - 1 of `cells` have been written past this class."""
        if self.shared is not None and self.shared.proxy is not None:
            start = self.address + k * self.itemsize
            self._note(start, start + n * self.itemsize)

    def _note(self, low: int, high: int) -> None:
        shared = self.shared
        assert shared is not None and shared.proxy is not None
        shared.proxy.note(current().index, low - shared.address, high - shared.address)

    def locate(self, action: str, key: Any, n: int, alignment: int) -> int:
        """Where in `cells` self[key] is, if it and the n - 1 elements behind it in its row may be accessed at once."""
        place, shape, k = key if type(key) is tuple else (key,), self.shape, 0
        for i, size in zip(place, shape, strict=True):
            if not 0 <= i < size:
                raise MemoryFault(f"{current()}: index {key} is not in a shared window of shape {shape}")
            k = k * size + int(i)  # of 32 bits, perhaps
        if place[-1] + n > shape[-1]:
            raise MemoryFault(f"{current()}: {n} elements from {key} on are not in a shared window of shape {shape}")
        if (self.address + k * self.itemsize) % alignment:
            raise MemoryFault(f"{current()}: {n} {self.dtype} from {key} on are misaligned: not at {alignment} bytes")
        return k


class CountedSharedWindow(CountedArray, SharedWindow):
    """A shared window that counts the elements that are read and written."""

    def __array_finalize__(self, source: Any) -> None:
        CountedArray.__array_finalize__(self, source)
        SharedWindow.__array_finalize__(self, source)

    def locate(self, action: str, key: Any, n: int, alignment: int) -> int:
        """As in SharedWindow, for an access that follows."""
        k = super().locate(action, key, n, alignment)
        self.count(action, n)
        return k


def shared_window(offset: int, shape: Shape, dtype: Any) -> SharedWindow:
    """The block's dynamic shared memory as an array.

    Parameters
    ----------
    offset : int
        Of the first element, in bytes.
    shape : int or tuple of int
    dtype : numba type or NumPy dtype

    Returns
    -------
    C-contiguous array; the same bytes for all threads of the block. NumPy checks its bounds, and negative integers
    are refused as well; slices are NumPy's.

    Raises
    ------
    MemoryFault
        If the window does not lie within the launch's shared memory, or `offset` is no multiple of the item size.
    """
    shared, dtype, shape, offset = current().block.shared, as_dtype(dtype), as_shape(shape), index(offset)
    nbytes, size = prod(shape) * dtype.itemsize, shared.dynamic.size
    if not 0 <= offset <= size - nbytes:
        raise MemoryFault(f"{current()}: bytes {offset} to {offset + nbytes} are not in the {size} of shared memory")
    if offset % dtype.itemsize:
        raise MemoryFault(f"{current()}: shared memory of {dtype} at byte {offset} is misaligned")
    tally = current_tally()
    kind = SharedWindow if tally is None else CountedSharedWindow
    window = kind(shape, dtype, shared.dynamic, offset)
    window.address = shared.address + offset
    window.cells = np.ndarray(prod(shape), dtype, shared.dynamic, offset)
    window.tally, window.shared = tally, shared
    return window


def _refuse_negative(window: SharedWindow, key: Any) -> None:
    for i in key if type(key) is tuple else (key,):
        if type(i) in SIGNED and i < 0:
            raise MemoryFault(f"{current()}: index {key} of a shared window of shape {window.shape} is negative")
