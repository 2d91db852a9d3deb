"""The one way a thread waits: it parks at a gate, and its block asks after every scheduling round which gates are open.

Barriers, collectives and whatever else waits are gates that differ in `is_open`.
"""

from __future__ import annotations

from collections.abc import Hashable

from .errors import Deadlock
from .thread import Thread, current


class Gate:
    """What threads wait at. Subclasses say when it is open.

    Parameters
    ----------
    name : str
        What an error message calls it.
    key : Hashable, optional
        How arriving threads find it in `block.gates` while somebody waits; none if they know it already.
    """

    error: type[RuntimeError] = Deadlock  # what it is if everyone waits and nothing opens
    team: int | None = None  # the first thread of a warp or warpgroup that waits by itself, and may run ahead
    of_others = False  # may another block open it?

    def __init__(self, name: str, key: Hashable = None) -> None:
        self.name = name
        self.key = self if key is None else key
        self.waiting: list[Thread] = []

    def is_open(self) -> bool:
        """May the waiting threads go on?"""
        raise NotImplementedError

    def hold(self, thread: Thread) -> None:
        """Suspend the running thread."""
        block = thread.block
        if not self.waiting:
            block.gates[self.key] = self
        self.waiting.append(thread)
        block.scheduler.switch()

    def release(self) -> list[Thread]:
        """Nobody waits any more; returns who did."""
        released, self.waiting = self.waiting, []
        return released


def park(gate: Gate) -> None:
    """Suspend the running thread until a scheduling round ends with `gate` open."""
    gate.hold(current())
