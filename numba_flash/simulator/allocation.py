"""The bytes of a NumPy array, and which of them belong to its elements."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.lib.array_utils import byte_bounds

from .memory import address


class Cells(NamedTuple):
    """An allocation as one kind of element: aligned ones, from the first that starts within it."""

    values: np.ndarray
    start: int  # of the first, in bytes from the allocation's first
    owned: bytes | None  # for each, is all of it the array's? None: yes


class Allocation:
    """The memory between the lowest and the highest byte of an array.

    Attributes
    ----------
    array : ndarray
        Any shape and strides.
    address : int
        Of the lowest byte.
    first : int
        Of the array's first element, in bytes from there.
    """

    def __init__(self, array: np.ndarray, writable: bool) -> None:
        if writable and not array.flags.writeable:
            raise ValueError("a writable pointer into a read-only array")
        self.array, self.writable = array, writable
        low, high = byte_bounds(array) if array.size else (address(array), address(array))
        self.address, self.size = low, high - low
        self.first = address(array) - low
        self._bytes = np.asarray(_Memory(array, low, self.size))
        self._owned = self._owned_bytes()
        self._cells: dict[Any, Cells] = {}

    def cells(self, dtype: Any) -> Cells:
        """The memory as elements of `dtype`."""
        cells = self._cells.get(dtype)
        if cells is None:
            cells = self._cells[dtype] = self._cut(np.dtype(dtype))
        return cells

    def owns(self, start: int, stop: int) -> bool:
        """Do these bytes, counted from the lowest, belong to elements of the array?"""
        inside = 0 <= start <= stop <= self.size
        return inside and (self._owned is None or bool(self._owned[start:stop].all()))

    def _cut(self, dtype: np.dtype[Any]) -> Cells:
        start = -self.address % dtype.itemsize
        count = max(0, self.size - start) // dtype.itemsize
        whole = slice(start, start + count * dtype.itemsize)
        owned = None if self._owned is None else self._owned[whole].reshape(count, dtype.itemsize).all(axis=1).tobytes()
        return Cells(self._bytes[whole].view(dtype), start, owned)

    def _owned_bytes(self) -> np.ndarray | None:
        """For each byte, whether an element covers it; None if all are covered."""
        array = self.array
        if array.flags.c_contiguous or array.flags.f_contiguous:
            return None
        owned = np.zeros(self.size, bool)
        np.ndarray((*array.shape, array.itemsize), bool, owned, self.first, (*array.strides, 1))[...] = True
        return None if owned.all() else owned


class _Memory:
    """Raw bytes in NumPy's array interface; keeps the array that owns them alive."""

    def __init__(self, owner: np.ndarray, address: int, size: int) -> None:
        self.owner = owner
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": (size,), "data": (address, False)}
