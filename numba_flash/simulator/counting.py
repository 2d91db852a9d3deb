"""Counting the bytes that threads read and write, for launches that ask for it; all others run as if this were not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from numba_flash.traffic import Traffic

from .thread import running


@dataclass
class Tally:
    """Bytes that one launch has moved so far."""

    kernel: str
    bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(Traffic.__dataclass_fields__, 0))

    @property
    def traffic(self) -> Traffic:
        """The bytes as a Traffic."""
        return Traffic(**self.bytes)


@dataclass
class Counted:
    """What `count_traffic` counted: one tally for each launch, in their order."""

    launches: list[Tally] = field(default_factory=list)

    @property
    def total(self) -> Traffic:
        """The traffic of all launches together."""
        return sum((tally.traffic for tally in self.launches), Traffic())


_counted: ContextVar[Counted | None] = ContextVar("counted", default=None)


@contextmanager
def count_traffic() -> Iterator[Counted]:
    """Count what the threads of launches inside the `with` block move.

    An element counts with all its bytes every time that a thread reads or writes it: in global memory through a
    pointer's view, in shared memory through a window or a declared array. Registers, local arrays and null pointers
    do not count. An inner block counts for itself alone.

    Yields
    ------
    Counted
        `total`, a Traffic, and `launches`, with the name of each kernel and its own `traffic`.
    """
    counted = Counted()
    token = _counted.set(counted)
    try:
        yield counted
    finally:
        _counted.reset(token)


def begin(kernel: str) -> None:
    """A launch starts."""
    counted = _counted.get()
    if counted is not None:
        counted.launches.append(Tally(kernel))


def current_tally() -> Tally | None:
    """Where the running thread's traffic is counted; None if it is not."""
    counted = _counted.get()
    return None if counted is None or running() is None else counted.launches[-1]


class CountedArray(np.ndarray):
    """Shared memory whose elements are counted when they are read and written, and those of its views as well."""

    tally: Tally | None = None

    def __array_finalize__(self, source: Any) -> None:
        self.tally = getattr(source, "tally", None)

    def __getitem__(self, key: Any) -> Any:
        value = super().__getitem__(key)
        if not isinstance(value, np.ndarray):
            self.count("read", 1)
        return value

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        self.count("write", np.size(np.ndarray.__getitem__(self, key)))

    def count(self, action: str, n: int) -> None:
        """Note that n elements are read or written."""
        if self.tally is not None:
            self.tally.bytes["shared_read" if action == "read" else "shared_written"] += n * self.itemsize


def counted(array: np.ndarray) -> np.ndarray:
    """The same shared memory; counted, if this launch counts."""
    tally = current_tally()
    if tally is None:
        return array
    view = array.view(CountedArray)
    view.tally = tally
    return view
