"""How to run: the order of threads, how many blocks at a time, and when asynchronous copies land."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, get_args

Landing = Literal["late", "early", "crossed"]


@dataclass(frozen=True)
class Options:
    """What `options` chose."""

    seed: int | None = None
    landing: Landing = "late"
    blocks: int = 1


DEFAULT = Options()

chosen: ContextVar[Options] = ContextVar("chosen", default=DEFAULT)


@contextmanager
def options(*, seed: int | None = None, landing: Landing = "late", blocks: int = 1) -> Iterator[None]:
    """Choose how launches inside the `with` block run; an inner block replaces all choices of an outer one.

    Parameters
    ----------
    seed : int, optional
        Shuffles the blocks of a grid and, anew in every scheduling round, the threads of a block. The same seed gives
        the same order. None runs blocks and threads as they are numbered. A warp, or a warpgroup, that meets no
        other at a collective runs ahead: the first that can, by a seed any.
    landing : {"late", "early", "crossed"}
        "late": an asynchronous copy moves its bytes at the wait that covers it, and a warpgroup's product reads and
        writes at its wait, which shows a missing wait.
        "early": both happen when they are issued, which shows a buffer that is refilled before its readers are done.
        "crossed": copies land early and products late, which shows the same where the readers are products.
    blocks : int
        So many are there at a time, and take turns; the next one starts when one of them is done.

    Raises
    ------
    ValueError
        If `landing` is none of them, or `blocks` is not positive.
    """
    if landing not in get_args(Landing):
        raise ValueError(f"{landing=} is none of {', '.join(map(repr, get_args(Landing)))}")
    if blocks < 1:
        raise ValueError(f"{blocks=} run at a time: give at least 1")
    token = chosen.set(Options(seed, landing, blocks))
    try:
        yield
    finally:
        chosen.reset(token)
