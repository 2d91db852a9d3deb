"""A block: its threads take turns, round by round."""

from __future__ import annotations

from collections.abc import Hashable
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent

from .gate import Gate
from .report import add_note, stuck
from .shared import SharedMemory
from .thread import Dim3, Thread

if TYPE_CHECKING:
    from .launch import Launch


class Block:
    """The threads of one block and what they share.

    Attributes
    ----------
    early, early_products : bool
        Do asynchronous copies, and products of warpgroups, land when they are issued?
    threads : list of Thread
    everyone, returned : int
        Sets of threads, bit i for thread i: all, and those that are done.
    gates : dict
        What threads wait at now.
    shared : SharedMemory
    registry : dict
        What instruction twins keep for the block, such as named barriers.
    scheduler : greenlet
        What a thread switches to when it parks.
    """

    def __init__(self, launch: Launch, blockIdx: Dim3, threads: list[Thread]) -> None:
        self.kernel, self.arguments = launch.kernel, launch.arguments
        self.gridDim, self.blockDim, self.blockIdx = launch.grid, launch.block, blockIdx
        self.early, self.early_products = launch.how.landing != "late", launch.how.landing == "early"
        self.sites = launch.sites
        self.threads = threads
        self.everyone, self.returned = (1 << len(threads)) - 1, 0
        self.gates: dict[Hashable, Gate] = {}
        self.shared = SharedMemory(launch.shared_bytes)
        self.registry: dict[Hashable, Any] = {}
        self.scheduler = getcurrent()
        self._arrange = launch.arrange
        for thread in threads:
            thread.enter(self)
        self._new = list(threads)

    def advance(self) -> bool:
        """One scheduling round: every thread that can go on runs until it parks or returns.

        False if none can: all have returned, or those at `gates` wait for other blocks.
        """
        ready, self._new = self._new or self._released(), []
        if not ready:
            if self.gates and not any(gate.of_others for gate in self.gates.values()):
                raise stuck(self)
            return False
        self._arrange(ready)
        self._run_round(ready)
        return True

    def _run_round(self, ready: list[Thread]) -> None:
        for thread in ready:
            try:
                thread.switch()
            except BaseException as error:
                add_note(error, f"in {thread}")
                raise

    def _released(self) -> list[Thread]:
        """The threads whose gates are open, as they are numbered; where warps or warpgroups wait alone, those of one.

        So it runs ahead of the others until a barrier stops it, and where one is missing, it goes too far.
        """
        released = []
        gates = [gate for gate in self.gates.values() if gate.is_open()]
        if teams := sorted({gate.team for gate in gates if gate.team is not None}):
            self._arrange(teams)
            gates = [gate for gate in gates if gate.team == teams[0]]
        for gate in gates:
            del self.gates[gate.key]
            released += gate.release()
        released.sort(key=attrgetter("index"))
        return released
