"""What a device pointer is in the simulator: the caller's array, and an offset in bytes."""

from __future__ import annotations

from operator import index
from typing import Any

import numpy as np

from .allocation import Allocation
from .counting import Tally, current_tally
from .errors import MemoryFault
from .thread import running


class Pointer:
    """Points to the first element of an array; `+` and `-` move it by bytes, `view` types it.

    Parameters
    ----------
    array : ndarray
        Any shape and strides, negative and zero ones too. Not copied.
    writable : bool
        May kernels write through it?

    Raises
    ------
    ValueError
        If `writable` and the array is not.
    """

    __slots__ = ("allocation", "offset")

    def __init__(self, array: np.ndarray, *, writable: bool) -> None:
        self.allocation = Allocation(array, writable)
        self.offset = 0  # in bytes from the array's first element

    @property
    def address(self) -> int:
        """The address in the host's memory."""
        return self.allocation.address + self.allocation.first + self.offset

    def __add__(self, nbytes: Any) -> Pointer:
        moved = object.__new__(Pointer)
        moved.allocation = self.allocation
        moved.offset = self.offset + index(nbytes)
        return moved

    __radd__ = __add__

    def __sub__(self, nbytes: Any) -> Pointer:
        return self + -index(nbytes)

    def view(self, dtype: Any) -> Window:
        """The memory from here on, and before, as elements of a NumPy dtype."""
        tally = current_tally()
        return Window(self, dtype) if tally is None else CountedWindow(self, dtype, tally)

    def __repr__(self) -> str:
        array = self.allocation.array
        return f"<pointer to byte {self.offset} of {array.dtype} array {array.shape}, strides {array.strides}>"


class Window:
    """Typed elements around a pointer, without bounds but those of the array; element 0 is where it points.

    Every access raises MemoryFault, an IndexError, unless exactly its bytes belong to elements of the array, the
    address is a multiple of the size, and, for a write, the pointer is writable.

    Attributes
    ----------
    dtype : numpy.dtype
    cells : ndarray
        All of the memory as elements of `dtype`.
    """

    __slots__ = ("_count", "_origin", "_owned", "cells", "dtype", "pointer")

    def __init__(self, pointer: Pointer, dtype: Any) -> None:
        allocation = pointer.allocation
        self.pointer = pointer
        self.cells, start, self._owned = allocation.cells(dtype)
        self.dtype = self.cells.dtype
        self._origin, misaligned = divmod(allocation.first + pointer.offset - start, self.dtype.itemsize)
        self._count = 0 if misaligned else len(self.cells)

    def __getitem__(self, i: Any) -> Any:
        k = self._origin + index(i)
        if 0 <= k < self._count and (self._owned is None or self._owned[k]):
            return self.cells[k]
        raise self._fault("read", i, 1, self.dtype.itemsize)

    def __setitem__(self, i: Any, value: Any) -> None:
        k = self._origin + index(i)
        if not (0 <= k < self._count and (self._owned is None or self._owned[k]) and self.pointer.allocation.writable):
            raise self._fault("write", i, 1, self.dtype.itemsize)
        self.cells[k] = value

    def read(self, i: Any, n: int, *, alignment: int | None = None) -> np.ndarray:
        """A copy of elements i .. i + n - 1, whose address is a multiple of `alignment`, by default of their size."""
        k = self.locate("read", i, n, alignment or max(n, 1) * self.dtype.itemsize)
        return self.cells[k : k + n].copy()

    def write(self, i: Any, values: Any, *, alignment: int | None = None) -> None:
        """Replace elements i .. i + len(values) - 1; alignment as for `read`."""
        n = len(values)
        k = self.locate("write", i, n, alignment or max(n, 1) * self.dtype.itemsize)
        self.cells[k : k + n] = values

    def locate(self, action: str, i: Any, n: int, alignment: int) -> int:
        """Where in `cells` element i is, if n elements from there on may be read (written)."""
        k = self._origin + index(i)
        inside = 0 <= k <= self._count - n and (self._owned is None or self._owned.find(0, k, k + n) < 0)
        aligned = (self.pointer.address + index(i) * self.dtype.itemsize) % alignment == 0
        if not inside or not aligned or (action == "write" and not self.pointer.allocation.writable):
            raise self._fault(action, i, n, alignment)
        return k

    def _fault(self, action: str, i: Any, n: int, alignment: int) -> MemoryFault:
        allocation = self.pointer.allocation
        array, nbytes = allocation.array, n * self.dtype.itemsize
        offset = self.pointer.offset + index(i) * self.dtype.itemsize
        start = allocation.first + offset
        if action == "write" and not allocation.writable:
            reason = "the array is read-only"
        elif not allocation.owns(start, start + nbytes):
            outside = start + nbytes <= 0 or start >= allocation.size
            reason = "they are outside of the array" if outside else "not all of them belong to an element"
        else:
            reason = f"the address is not a multiple of {alignment}"
        return MemoryFault(
            f"{running() or 'the host'} cannot {action} {nbytes} bytes at byte {offset} of the {array.dtype} array "
            f"of shape {array.shape} and strides {array.strides}: {reason}"
        )


class CountedWindow(Window):
    """A window that counts the elements that are read and written."""

    __slots__ = ("_tally",)

    def __init__(self, pointer: Pointer, dtype: Any, tally: Tally) -> None:
        super().__init__(pointer, dtype)
        self._tally = tally

    def __getitem__(self, i: Any) -> Any:
        value = super().__getitem__(i)
        self._note("read", 1)
        return value

    def __setitem__(self, i: Any, value: Any) -> None:
        super().__setitem__(i, value)
        self._note("write", 1)

    def locate(self, action: str, i: Any, n: int, alignment: int) -> int:
        """As in Window, for an access that follows."""
        k = super().locate(action, i, n, alignment)
        self._note(action, n)
        return k

    def _note(self, action: str, n: int) -> None:
        self._tally.bytes["global_read" if action == "read" else "global_written"] += n * self.dtype.itemsize
