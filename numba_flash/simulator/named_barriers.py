"""Named barriers: 16 to a block, at which some of its warps meet."""

from __future__ import annotations

from typing import Any

from .block import Block
from .collectives import FULL_MASK, exchange
from .errors import DivergentBarrier
from .gate import Gate
from .report import listed
from .thread import WARP, current

BARRIERS = 16
OF_THE_BLOCK = 0  # the barrier that `cuda.syncthreads` uses as well


class NamedBarrier(Gate):
    """One use of a barrier: it opens when as many threads as it is for have arrived, whether they wait or not.

    Parameters
    ----------
    number, threads : int
        Which barrier, and for how many threads.
    """

    error = DivergentBarrier

    def __init__(self, number: int, threads: int) -> None:
        super().__init__(f"named barrier {number}")
        self.number, self.threads = number, threads
        self.arrived = 0  # threads, bit i for thread i

    def is_open(self) -> bool:
        """Have all arrived?"""
        return self.arrived.bit_count() == self.threads

    def add(self, warp: int, threads: int) -> None:
        """The threads of a warp arrive; they say that the barrier is for so many.

        Raises
        ------
        DivergentBarrier
            If the others said another number, or this warp is here already.
        """
        if threads != self.threads:
            raise DivergentBarrier(
                f"{listed(warp)} arrive at named barrier {self.number} for {threads} threads, "
                f"{listed(self.arrived)} for {self.threads}"
            )
        if self.arrived & warp:
            raise DivergentBarrier(
                f"{listed(warp)} arrive twice at named barrier {self.number}, in place of others of {threads} threads"
            )
        self.arrived |= warp
        self.name = f"named barrier {self.number} for {threads} threads, reached by {listed(self.arrived)}"


def arrive(number: Any, threads: Any, *, name: str) -> NamedBarrier:
    """The running thread's warp arrives at a barrier, once its lanes that have not returned are at this call.

    A warp counts as 32 threads. Park at the barrier that is returned to wait for the others.

    Raises
    ------
    ValueError
        If there is no such barrier, or `threads` is not a positive multiple of 32 that the block has.
    DivergentBarrier
        If lanes disagree, or as `NamedBarrier.add`; and at barrier 0 while others are at `cuda.syncthreads`.
    """
    thread, number, threads = current(), int(number), int(threads)
    if not 0 <= number < BARRIERS:
        raise ValueError(f"{name}: {thread} names barrier {number}, which is not one of 0 to {BARRIERS - 1}")
    if threads <= 0 or threads % WARP or threads > len(thread.block.threads) + WARP - 1:
        raise ValueError(f"{name}: {thread} waits for {threads} threads, not for whole warps of its block")
    return exchange((number, threads), name=name, combine=_arrive)


def _arrive(operands: list[Any]) -> NamedBarrier:
    """One warp arrives, whose lanes bring these (number, threads)."""
    thread = current()
    block, warp = thread.block, FULL_MASK << WARP * thread.warp
    if len(named := set(operands) - {None}) > 1:
        raise DivergentBarrier(f"{listed(warp)} name different barriers, (number, threads): {sorted(named)}")
    ((number, threads),) = named
    if number == OF_THE_BLOCK and (others := _at_syncthreads(block)):
        raise DivergentBarrier(f"{listed(warp)} arrive at named barrier 0, {listed(others)} wait at it in syncthreads")
    barrier = block.registry.setdefault((NamedBarrier, number), NamedBarrier(number, threads))
    barrier.add(warp, threads)
    if barrier.is_open():
        del block.registry[NamedBarrier, number]
    return barrier


def _at_syncthreads(block: Block) -> int:
    """The threads that wait at `cuda.syncthreads` or one of its reductions."""
    gates = [gate for gate in block.gates.values() if gate.name.startswith("syncthreads")]
    return sum(1 << thread.index for gate in gates for thread in gate.waiting)


def refuse_barrier_of_the_block() -> None:
    """The running thread is about to wait at `cuda.syncthreads`.

    Raises
    ------
    DivergentBarrier
        If others have arrived at named barrier 0, which is the same one.
    """
    thread = current()
    barrier = thread.block.registry.get((NamedBarrier, OF_THE_BLOCK))
    if barrier is not None:
        raise DivergentBarrier(f"{thread} is at syncthreads, which waits at {barrier.name}")
