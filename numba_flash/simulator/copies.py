"""The asynchronous copies of one thread: `cp.async` and its groups."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

Land = Callable[[], object]


class Copies:
    """Copies in flight, oldest group first.

    Parameters
    ----------
    early : bool
        Copies land when issued; otherwise at the wait that covers their group, and never without one.
    """

    def __init__(self, early: bool) -> None:
        self._early = early
        self._issued: list[Land] = []
        self._groups: deque[list[Land]] = deque()

    def issue(self, land: Land) -> None:
        """Start a copy; `land()` reads its source and writes its destination, both when it lands."""
        if self._early:
            land()
        else:
            self._issued.append(land)

    def commit(self) -> None:
        """Close the group of copies issued since the last commit; it may be empty."""
        self._groups.append(self._issued)
        self._issued = []

    def wait(self, pending: int) -> None:
        """Land the oldest groups until at most `pending` are left in flight."""
        while len(self._groups) > pending:
            for land in self._groups.popleft():
                land()
