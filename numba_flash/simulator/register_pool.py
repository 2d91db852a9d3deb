"""The registers of a block, which warpgroups give back and take: `setmaxnreg`."""

from __future__ import annotations

from typing import Any

from .errors import DivergentBarrier
from .gate import Gate
from .thread import WARPGROUP, current
from .warpgroup import exchange_warpgroup

OF_A_MULTIPROCESSOR = 65536
MOST = 255  # registers of a thread
STEP = 8  # they come in so many


class RegisterPool:
    """What warpgroups have given back. At first all threads have an equal share of a multiprocessor's registers."""

    def __init__(self, threads: int) -> None:
        self.entry, self.left = min(MOST, OF_A_MULTIPROCESSOR // threads) // STEP * STEP, 0
        self.have: dict[int, int] = {}  # registers of each thread of a warpgroup

    def ask(self, warpgroup: int, count: int, grows: bool) -> Grant:
        """A warpgroup wants to have so many from now on."""
        have = self.have.get(warpgroup, self.entry)
        if count < have if grows else count > have:
            how = "inc, to fewer" if grows else "dec, to more"
            raise ValueError(f"setmaxnreg: {current()} has {have} registers and asks for {count}: an {how}")
        return Grant(self, warpgroup, count, count - have)


class Grant(Gate):
    """Open once there are so many `more` registers for each thread of a warpgroup."""

    def __init__(self, pool: RegisterPool, warpgroup: int, count: int, more: int) -> None:
        super().__init__(f"setmaxnreg for {count} registers, {more} more a thread than before")
        self._pool, self._warpgroup, self._count, self._more = pool, warpgroup, count, more
        self._granted = False

    def is_open(self) -> bool:
        """Are there? Then the warpgroup has them."""
        if not self._granted and self._more <= self._pool.left:
            self._pool.left -= self._more
            self._pool.have[self._warpgroup] = self._count
            self._granted = True
        return self._granted


def set_registers(count: int, grows: bool) -> None:
    """The threads of a warpgroup give registers back to their block's pool, or wait until there are more of them.

    Raises
    ------
    ValueError
        If `count` is no multiple of 8 in 24 .. 256, or it grows to fewer than there are, or shrinks to more.
    """
    thread, name = current(), "setmaxnreg.inc" if grows else "setmaxnreg.dec"
    if count % STEP or not 24 <= count <= 256:
        raise ValueError(f"{name}: {thread} asks for {count} registers, not for a multiple of {STEP} in 24 .. 256")
    grant = exchange_warpgroup((count, grows), name=name, combine=_ask)
    if not grant.is_open():
        grant.hold(thread)


def _ask(lanes: list[Any]) -> Grant:
    thread, (first, *others) = current(), lanes
    if any(other != first for other in others):
        raise DivergentBarrier(f"setmaxnreg: the threads of a warpgroup, {thread} among them, disagree")
    registry, block = thread.block.registry, thread.block
    pool = registry.setdefault(RegisterPool, RegisterPool(len(block.threads)))
    return pool.ask(thread.index // WARPGROUP, *first)
