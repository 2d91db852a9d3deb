"""What the asynchronous units, tensor copies and warpgroup products, see of shared memory.

They read through a proxy of their own: an ordinary write reaches it when the thread that wrote executes a proxy fence.
What they write themselves is seen by everyone.
"""

from __future__ import annotations

import numpy as np

from .errors import MemoryFault
from .memory import UNWRITTEN
from .thread import Thread, current

BASE = 1024  # the address of dynamic shared memory: a kernel that takes a distance for an address is wrong here, too


class AsyncProxy:
    """The dynamic shared memory of a block as the asynchronous units see it.

    Parameters
    ----------
    dynamic : uint8 array
        The memory as threads see it.
    seen : bool
        Do they see what is there already?
    """

    def __init__(self, dynamic: np.ndarray, seen: bool) -> None:
        self._dynamic, self._seen = dynamic, dynamic.copy()
        if not seen:
            self._seen[...] = np.frombuffer(UNWRITTEN, np.uint8)
        self._unseen: dict[int, list[slice]] = {}  # by thread

    def note(self, thread: int, start: int, stop: int) -> None:
        """A thread has written these bytes."""
        self._unseen.setdefault(thread, []).append(slice(start, stop))

    def fence(self, thread: int) -> None:
        """What a thread has written is seen from now on."""
        for place in self._unseen.pop(thread, ()):
            self._seen[place] = self._dynamic[place]

    def read(self, places: np.ndarray) -> np.ndarray:
        """The bytes at these distances from the start."""
        return self._seen[places]

    def write(self, places: np.ndarray, values: np.ndarray) -> None:
        """Write bytes, for everyone."""
        self._dynamic[places] = self._seen[places] = values


def proxy_of(thread: Thread, fence: bool = False) -> AsyncProxy:
    """That of the thread's block.

    Before the first instruction that asks for it nobody notes what is written: if that is a fence, it is taken for one
    of all threads.
    """
    shared = thread.block.shared
    if shared.proxy is None:
        shared.proxy = AsyncProxy(shared.dynamic, seen=fence)
    return shared.proxy


def fence_shared() -> None:
    """What the running thread has written to shared memory is seen from now on."""
    thread = current()
    proxy_of(thread, fence=True).fence(thread.index)


def places_of(thread: Thread, address: int, nbytes: np.ndarray, what: str) -> np.ndarray:
    """Where in dynamic shared memory the bytes at `address + nbytes` are, rows of 128 bytes being swizzled.

    The swizzle takes a byte's address: its 16-byte chunk, bits 4 to 6, changes places with others of its row by the
    row's number, bits 7 to 9.

    Raises
    ------
    MemoryFault
        If some are not in the block's dynamic shared memory.
    """
    straight = address + nbytes
    places = (straight ^ (straight >> 7 & 7) << 4) - BASE
    size = thread.block.shared.dynamic.size
    if places.size and not (places.min() >= 0 and places.max() < size):
        low, high = int(places.min()), int(places.max())
        raise MemoryFault(f"{thread}: {what} reaches bytes {low} to {high}, not in the {size} of shared memory")
    return places
