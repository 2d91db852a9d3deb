"""Barriers in shared memory that count arrivals and bytes, phase after phase: `mbarrier`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .async_proxy import BASE, proxy_of
from .errors import MemoryFault
from .gate import Gate
from .thread import WARP, Thread, current

ALIGNMENT = 8  # bytes of a barrier


class PhaseBarrier:
    """One barrier: its phase ends when `count` threads have arrived and all bytes that they announced are there.

    Attributes
    ----------
    phase, missing, owed : int
        The number of the present phase, and the arrivals and bytes that it waits for.
    flights : list
        Copies on their way, which land when somebody waits for them.
    published : bool
        May copies report to it?
    """

    def __init__(self, place: int, count: int, owner: Thread) -> None:
        self.place, self.count, self.owner = place, count, owner
        self.phase, self.missing, self.owed = 0, count, 0
        self.flights: list[Callable[[], None]] = []
        self.published = False

    def arrive(self, nbytes: int = 0) -> None:
        """One thread arrives, and announces so many bytes.

        Raises
        ------
        MemoryFault
            If the phase has all its arrivals already.
        """
        if self.missing == 0:
            raise MemoryFault(f"{current()} arrives at {self}, which has all of its {self.count} arrivals")
        self.owed += nbytes
        self.missing -= 1
        self._end_phase()

    def deliver(self, land: Callable[[], None], nbytes: int, early: bool) -> None:
        """A copy of so many bytes that `land` makes."""

        def report() -> None:
            land()
            self.owed -= nbytes

        if early:
            report()
            self._end_phase()
        else:
            self.flights.append(report)

    def has_passed(self, parity: int) -> bool:
        """Is the last phase of this parity over? Somebody waits for it: copies land that nothing else holds up."""
        if self.phase % 2 == parity and self.missing == 0:
            flights, self.flights = self.flights, []
            for report in flights:
                report()
            self._end_phase()
        return self.phase % 2 != parity

    def _end_phase(self) -> None:
        if self.missing == 0 and self.owed == 0 and not self.flights:
            self.phase, self.missing = self.phase + 1, self.count

    def __str__(self) -> str:
        lacks = f"{self.missing} arrivals and {self.owed} bytes missing"
        return f"the mbarrier at byte {self.place} in phase {self.phase} ({lacks})"


class PhaseGate(Gate):
    """Where threads wait for a phase of a barrier to end; they go ahead in the place of the first one's warp."""

    def __init__(self, barrier: PhaseBarrier, parity: int, key: Any, first: Thread) -> None:
        super().__init__(str(barrier), key)
        self.team = first.index // WARP * WARP
        self._barrier, self._parity = barrier, parity

    def is_open(self) -> bool:
        """Is it over?"""
        open_now = self._barrier.has_passed(self._parity)
        self.name = f"{self._barrier}, for a phase of parity {self._parity}"
        return open_now


def make_barrier(address: Any, count: Any) -> None:
    """Make a barrier for `count` arrivals at this address in shared memory."""
    thread, place = current(), _place(address)
    if int(count) <= 0:
        raise ValueError(f"{thread}: an mbarrier for {count} arrivals")
    proxy_of(thread)  # from here on, ordinary writes are noted
    thread.block.registry[PhaseBarrier, place] = PhaseBarrier(place, int(count), thread)


def publish_barriers() -> None:
    """Let copies report to the barriers that the running thread has made."""
    thread = current()
    for barrier in thread.block.registry.values():
        if isinstance(barrier, PhaseBarrier) and barrier.owner is thread:
            barrier.published = True


def barrier_at(address: Any) -> PhaseBarrier:
    """The barrier at an address.

    Raises
    ------
    MemoryFault
        If none has been made there.
    """
    thread, place = current(), _place(address)
    barrier = thread.block.registry.get((PhaseBarrier, place))
    if barrier is None:
        raise MemoryFault(f"{thread}: no mbarrier has been made at byte {place} of shared memory")
    return barrier


def wait_for_phase(address: Any, parity: Any) -> None:
    """Suspend the running thread until the barrier's last phase of this parity is over."""
    barrier, parity = barrier_at(address), int(parity)
    if parity not in (0, 1):
        raise ValueError(f"{current()}: an mbarrier has phases of parity 0 and 1, not {parity}")
    if not barrier.has_passed(parity):
        thread, key = current(), (PhaseGate, barrier.place, parity)
        gate = thread.block.gates.get(key) or PhaseGate(barrier, parity, key, thread)
        gate.hold(thread)


def _place(address: Any) -> int:
    thread, place = current(), int(address) - BASE
    if not 0 <= place <= thread.block.shared.dynamic.size - ALIGNMENT or place % ALIGNMENT:
        raise MemoryFault(f"{thread}: no mbarrier can lie at byte {place} of shared memory")
    return place
