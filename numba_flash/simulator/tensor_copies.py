"""Copies of boxes between a tensor in global memory and shared memory: the tensor memory accelerator (TMA).

A tensor map is 16 words in global memory that say how a tensor lies there and how large a box is. Hardware keeps their
meaning to itself; here the words are those of `encode`. A thread that has written one must release it, and one that
uses it acquire it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .async_proxy import places_of, proxy_of
from .counting import current_tally
from .errors import MemoryFault
from .phase_barriers import barrier_at
from .pointer import Pointer, Window
from .thread import Thread, current

WORDS = 16
RANK = 5  # axes at most
ROW = 128  # bytes of a swizzled row
ALIGNMENT = 64  # bytes of a map
MARK = 0x7E45 << 32  # in the second word: these are the words of a map
RELEASED, POINTERS = "tensor maps that have been released", "where tensors lie"


class TensorMap(NamedTuple):
    """A tensor and the box of it that one copy moves; the fastest axis comes first.

    pointer : of its first element
    itemsize : bytes of an element
    shape, box : elements along each axis
    strides : bytes from one element to the next along each axis but the first, where they are neighbours
    """

    pointer: Pointer
    itemsize: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]


def encode(itemsize: int, shape: Sequence[int], strides: Sequence[int], box: Sequence[int]) -> tuple[int, ...]:
    """The words of a map, but for its address, the first.

    Raises
    ------
    ValueError
        If a tensor copy cannot move such a box: one to five axes, rows of 128 bytes, and strides that are positive
        multiples of 16 bytes.
    """
    rank = len(shape)
    legal = 1 <= rank <= RANK and len(strides) == rank - 1 and len(box) == rank
    if not (legal and min(*shape, *box) > 0 and max(box) <= 256):
        raise ValueError(f"no tensor map has {shape=}, {strides=}, {box=}")
    if box[0] * itemsize != ROW or any(n <= 0 or n % 16 for n in strides):
        raise ValueError(f"no rows of {ROW} bytes, or strides that are no multiples of 16: {strides=}, {box=}")
    words = [0, MARK | itemsize << 8 | rank]
    words += [*shape, *[1] * (RANK - rank)]
    words += [*strides, *[0] * (RANK - rank)]
    return (*words, *box, *[1] * (RANK - rank))


def decode(words: Sequence[int], pointer: Pointer) -> TensorMap:
    """The map that these words say."""
    rank, itemsize = words[1] & 0xFF, words[1] >> 8 & 0xFF
    shape, strides, box = words[2:7], words[7:11], words[11:16]
    return TensorMap(pointer, itemsize, tuple(shape[:rank]), tuple(strides[: rank - 1]), tuple(box[:rank]))


def set_address(maps: Window, at: Any, pointer: Pointer) -> None:
    """Write where a map's tensor lies into the map at maps[at]."""
    thread, address = current(), pointer.address
    words = _words(maps, at, "write")
    if int(words[1]) & MARK != MARK:
        raise MemoryFault(f"{thread}: there are no words of a tensor map at element {at}")
    words[0] = address
    thread.block.registry.setdefault(POINTERS, {})[address] = pointer
    thread.written_maps.append((maps, at))


def release_maps() -> None:
    """Whoever acquires them sees the maps that the running thread has written."""
    thread = current()
    released = thread.block.registry.setdefault(RELEASED, {})
    for maps, at in thread.written_maps:
        released[_key(maps, at)] = tuple(int(word) for word in _words(maps, at, "read"))
    thread.written_maps.clear()


def acquire_map(maps: Window, at: Any) -> None:
    """Make the map at maps[at] what the running thread's copies use.

    Raises
    ------
    MemoryFault
        If none has been released there.
    """
    thread = current()
    words = thread.block.registry.get(RELEASED, {}).get(_key(maps, at))
    if words is None:
        raise MemoryFault(f"{thread}: no tensor map has been released at element {at}")
    thread.maps[_key(maps, at)] = decode(words, thread.block.registry[POINTERS][words[0]])


def load_box(address: Any, maps: Window, at: Any, corner: Sequence[Any], barrier: Any) -> None:
    """Start to copy the box whose first element is `corner` to shared memory; zeros beyond the tensor.

    Its bytes, those beyond the tensor too, are reported to an mbarrier.
    """
    thread, tensor, reporter = current(), _acquired(maps, at), barrier_at(barrier)
    if not reporter.published:
        raise MemoryFault(f"{thread}: {reporter} has not been published to copies")
    elements, exists = _elements(tensor, corner)
    places, proxy = _shared_places(thread, address, tensor), proxy_of(thread)
    source, k = _global_cells(thread, "read", tensor, elements, exists)
    _count(source.itemsize, global_read=len(k), shared_written=exists.size)

    def land() -> None:
        values = np.zeros(exists.shape, source.dtype)
        values[exists] = source[k]
        proxy.write(places, values.ravel().view(np.uint8))

    reporter.deliver(land, places.size, thread.block.early)


def store_box(maps: Window, at: Any, corner: Sequence[Any], address: Any, add: bool) -> None:
    """Start to copy a box from shared memory to the tensor, or to add it there; what lies beyond is left out."""
    thread, tensor = current(), _acquired(maps, at)
    if min(corner) < 0:
        raise MemoryFault(f"{thread}: a box is stored from {tuple(map(int, corner))} on; only loads may begin below 0")
    elements, exists = _elements(tensor, corner)
    places, proxy = _shared_places(thread, address, tensor), proxy_of(thread)
    target, k = _global_cells(thread, "write", tensor, elements, exists)
    _count(target.itemsize, global_written=len(k), shared_read=exists.size)

    def land() -> None:
        values = proxy.read(places).view(target.dtype).reshape(exists.shape)[exists]
        if add:
            values = (target[k].view(np.float32) + values.view(np.float32)).view(target.dtype)
        target[k] = values

    thread.stores.issue(land)


def _words(maps: Window, at: Any, action: str) -> np.ndarray:
    """Those of a map, in its memory; accesses to them are not counted as traffic."""
    k = Window.locate(maps, action, at, WORDS, 16)
    if (maps.pointer.offset + int(at) * 8) % ALIGNMENT:  # of the allocation, whose own address means nothing here
        raise MemoryFault(f"{current()}: a tensor map at element {at}, which is no multiple of {ALIGNMENT} bytes")
    return maps.cells[k : k + WORDS]


def _key(maps: Window, at: Any) -> int:
    return maps.pointer.address + int(at) * maps.dtype.itemsize


def _acquired(maps: Window, at: Any) -> TensorMap:
    thread = current()
    tensor = thread.maps.get(_key(maps, at))
    if tensor is None:
        raise MemoryFault(f"{thread} has not acquired the tensor map at element {at}")
    return tensor


def _elements(tensor: TensorMap, corner: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """For each element of a box, slowest axis first: how many bytes behind the tensor's first it is; does it exist?"""
    if len(corner) != len(tensor.shape):
        raise ValueError(f"{current()}: {len(corner)} coordinates of a tensor with {len(tensor.shape)} axes")
    nbytes, exists = np.zeros((1,) * len(corner), np.int64), np.ones((1,) * len(corner), bool)
    for axis, first in enumerate(corner):
        place = [1] * len(corner)
        place[-1 - axis] = -1
        n = (int(first) + np.arange(tensor.box[axis])).reshape(place)
        nbytes = nbytes + n * (tensor.strides[axis - 1] if axis else tensor.itemsize)
        exists = exists & (n >= 0) & (n < tensor.shape[axis])
    return np.broadcast_to(nbytes, exists.shape), exists


def _shared_places(thread: Thread, address: Any, tensor: TensorMap) -> np.ndarray:
    """Where the bytes of a box lie in shared memory, row after row, swizzled."""
    if int(address) % ROW:
        raise MemoryFault(f"{thread}: a box at address {address} of shared memory, which is no multiple of {ROW}")
    nbytes = np.arange(int(np.prod(tensor.box)) * tensor.itemsize)
    return places_of(thread, int(address), nbytes, "a box")


def _global_cells(
    thread: Thread, action: str, tensor: TensorMap, nbytes: np.ndarray, exists: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The tensor's memory as elements, and which of them are those of a box that exist."""
    pointer, dtype = tensor.pointer, np.dtype(f"u{tensor.itemsize}")
    allocation = pointer.allocation
    cells, start, owned = allocation.cells(dtype)
    k, misaligned = np.divmod(allocation.first + pointer.offset - start + nbytes[exists], tensor.itemsize)
    inside = not misaligned.any() and (k.size == 0 or (k.min() >= 0 and k.max() < len(cells)))
    if not inside or (owned is not None and not np.frombuffer(owned, bool)[k].all()):
        raise MemoryFault(f"{thread}: a box cannot {action} all of its elements in {pointer}")
    if pointer.address % 16 or (action == "write" and not allocation.writable):
        raise MemoryFault(
            f"{thread}: a box cannot {action} at {pointer}: its address is no multiple of 16, or read-only"
        )
    return cells, k


def _count(itemsize: int, **elements: int) -> None:
    tally = current_tally()
    for kind, n in elements.items():
        if tally is not None:
            tally.bytes[kind] += n * itemsize
