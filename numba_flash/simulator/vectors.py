"""Loads and stores of several neighbouring elements at once: `ld.v4` and its like."""

from __future__ import annotations

from typing import Any

import numpy as np

from .counting import CountedArray
from .errors import MemoryFault
from .memory import address
from .pointer import Window
from .thread import current, running
from .window import SharedWindow

WIDEST = 16  # bytes that one instruction moves


def load_vector(array: Any, index: Any, n: int) -> tuple[Any, ...]:
    """Element array[index] and the n - 1 behind it on the last axis.

    Parameters
    ----------
    array : Window, shared window or ndarray
        The last axis is contiguous.
    index : int or tuple of int
        Non-negative, except in a Window.
    n : int
        How many; their size, or 16 bytes where that is smaller, divides the address.

    Raises
    ------
    MemoryFault
        If an element does not exist, or the address is misaligned.
    """
    cells, k = locate_vector("read", array, index, n)
    return tuple([cells[i] for i in range(k, k + n)])


def store_vector(array: Any, index: Any, values: Any) -> None:
    """Write array[index] and the elements behind it; as `load_vector`."""
    cells, k = locate_vector("write", array, index, len(values))
    for i, value in enumerate(values, k):
        cells[i] = value
    _note(array, k, len(values))


def copy_vector(tile: Any, index: Any, view: Any, at: Any, n: int, count: Any) -> None:
    """Start an asynchronous copy of n elements from view[at] on to tile[index] and behind.

    Only the first `count` are read, and zeros take the place of the others. Source and destination are checked, as by
    `load_vector` and `store_vector`, when it starts; both addresses are those of n elements.

    Raises
    ------
    ValueError
        If `count` is not in 0 .. n.
    """
    if not 0 <= count <= n:
        raise ValueError(f"{current()}: a copy of {n} elements cannot read {count}")
    to, k = locate_vector("write", tile, index, n)
    alignment = n * tile.dtype.itemsize
    source, x = locate_vector("read", view, at, int(count), alignment) if count else (None, 0)

    def land() -> None:
        to[k : k + n] = 0
        if source is not None:
            to[k : k + count] = source[x : x + count]
        _note(tile, k, n)

    current().copies.issue(land)


def locate_vector(action: str, array: Any, index: Any, n: int, alignment: int = 0) -> tuple[np.ndarray, int]:
    """One-dimensional memory, and where in it n elements start that one instruction reads (writes).

    Checked as by `load_vector`; `alignment` is that of the address, if it is not that of so many elements.
    """
    alignment = alignment or min(WIDEST, n * array.dtype.itemsize)
    if isinstance(array, Window):
        return array.cells, array.locate(action, index, n, alignment)
    if isinstance(array, SharedWindow) and array.cells is not None:
        return array.cells, array.locate(action, index, n, alignment)
    *outer, last = index if isinstance(index, tuple) else (index,)
    row = array.view(np.ndarray)[tuple(outer)]
    if min(*outer, last, 0) < 0 or row.ndim != 1 or last + n > len(row):
        raise MemoryFault(f"{running() or 'the host'}: {n} elements from {index} on are not in a shape {array.shape}")
    if (address(row) + last * row.itemsize) % alignment:
        raise MemoryFault(f"{running() or 'the host'}: {n} {array.dtype} from {index} on: the address is misaligned")
    if isinstance(array, CountedArray):
        array.count(action, n)
    return row, last


def _note(array: Any, k: int, n: int) -> None:
    """n elements of an array's memory have been written, from number k on."""
    if isinstance(array, SharedWindow) and array.cells is not None:
        array.wrote(k, n)
