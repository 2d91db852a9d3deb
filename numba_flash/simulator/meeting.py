"""Gates where threads meet: each brings a value, and all leave with everyone's."""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType
from typing import Any

from .callpath import CallPath, where
from .errors import DivergentBarrier
from .gate import Gate
from .report import listed
from .thread import WARP, WARPGROUP, Thread

Combine = Callable[[list[Any]], Any]


class Meeting(Gate):
    """Opens when every member is there.

    Parameters
    ----------
    name : str
        What an error message calls it.
    key : (int, CallPath)
        The members, bit i for thread i of the block, and the call at which they arrive.
    first, size : int
        Members are among threads first .. first + size - 1.
    """

    error = DivergentBarrier

    def __init__(self, name: str, key: tuple[int, CallPath], first: int, size: int) -> None:
        super().__init__(name, key)
        self.members, self.path = key
        self.first = first
        self.team = first if size in (WARP, WARPGROUP) and first % size == 0 else None
        self.values: list[Any] = [None] * size
        self._expected = self.members.bit_count()
        self._result: list[Any] = []

    def is_open(self) -> bool:
        """Is every member there?"""
        return len(self.waiting) == self._expected

    def attend(self, thread: Thread, value: Any, combine: Combine | None) -> Any:
        """Bring a value, wait for the others, and take the result, which the first to leave computes."""
        self.values[thread.index - self.first] = value
        self.hold(thread)
        if combine is None:
            return self.values
        if not self._result:
            self._result.append(combine(self.values))
        return self._result[0]


class MeetingOfTheLiving(Meeting):
    """Opens when every member that has not returned is there."""

    def is_open(self) -> bool:
        """Is every member there, or gone for good?"""
        gone = self.members & self.waiting[0].block.returned
        return len(self.waiting) + gone.bit_count() == self._expected


class Encounter(Meeting):
    """Opens after the round in which its first thread arrives, for whoever came in that round."""

    def __init__(self, name: str, key: tuple[int, CallPath], first: int, size: int) -> None:
        super().__init__(name, key, first, size)
        self.team = None

    def is_open(self) -> bool:
        """Yes."""
        return True


def meet(
    kind: type[Meeting],
    name: str,
    call: FrameType,
    thread: Thread,
    value: Any,
    *,
    members: int,
    first: int,
    size: int,
    combine: Combine | None = None,
) -> Any:
    """Take part in the meeting of these members at this call; the other parameters are those of Meeting.

    Returns
    -------
    The list of `size` values, None for absent threads, or what `combine` makes of it; one object for all threads.

    Raises
    ------
    DivergentBarrier
        If an overlapping group of other members meets at the same call.
    """
    key = members, thread.block.sites.path(call)
    meeting = thread.block.gates.get(key)
    if not isinstance(meeting, Meeting):
        meeting = kind(name, key, first, size)
        _refuse_overlap(meeting, thread, call)
    return meeting.attend(thread, value, combine)


def _refuse_overlap(meeting: Meeting, thread: Thread, call: FrameType) -> None:
    for other in thread.block.gates.values():
        if isinstance(other, Meeting) and other.path == meeting.path and other.members & meeting.members:
            raise DivergentBarrier(
                f"threads disagree about who takes part in {meeting.name} ({where(call)}): "
                f"{listed(meeting.members)} or {listed(other.members)}"
            )
