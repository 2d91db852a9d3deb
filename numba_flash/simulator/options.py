"""How to run: the order of threads, and when asynchronous copies land."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

Landing = Literal["late", "early"]


@dataclass(frozen=True)
class Options:
    """What `options` chose."""

    seed: int | None = None
    landing: Landing = "late"


DEFAULT = Options()

chosen: ContextVar[Options] = ContextVar("chosen", default=DEFAULT)


@contextmanager
def options(*, seed: int | None = None, landing: Landing = "late") -> Iterator[None]:
    """Choose how launches inside the `with` block run; an inner block replaces both choices of an outer one.

    Parameters
    ----------
    seed : int, optional
        Shuffles the blocks of a grid and, anew in every scheduling round, the threads of a block. The same seed gives
        the same order. None runs blocks and threads as they are numbered. A warp that meets no other at a collective
        runs ahead: the first that can, by a seed any.
    landing : {"late", "early"}
        "late": an asynchronous copy moves its bytes at the wait that covers it, which shows a missing wait.
        "early": it moves them when it is issued, which shows a buffer that is refilled before its readers are done.

    Raises
    ------
    ValueError
        If `landing` is neither.
    """
    if landing not in ("late", "early"):
        raise ValueError(f"{landing=} is neither 'late' nor 'early'")
    token = chosen.set(Options(seed, landing))
    try:
        yield
    finally:
        chosen.reset(token)
