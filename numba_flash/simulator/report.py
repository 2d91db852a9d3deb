"""Error messages that name threads."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .callpath import where
from .errors import Deadlock
from .thread import Thread

if TYPE_CHECKING:
    from .block import Block
    from .gate import Gate


def spans(numbers: Iterable[int]) -> str:
    """Ascending numbers in short: 0-15, 20, 22-23."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and runs[-1][1] == n - 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(f"{low}" if low == high else f"{low}-{high}" for low, high in runs)


def listed(members: int) -> str:
    """A set of threads, bit i for thread i: threads 0-15, 20."""
    numbers = [i for i in range(members.bit_length()) if members >> i & 1]
    return f"thread{'s' * (len(numbers) > 1)} {spans(numbers)}"


def stuck(block: Block) -> RuntimeError:
    """The error that says what each thread of a block waits at when nothing can wake one.

    DivergentBarrier if only barriers and collectives are waited at, otherwise Deadlock.
    """
    waiting = {thread.index: gate for gate in block.gates.values() for thread in gate.waiting}
    groups: dict[tuple[str, str], int] = {}
    for thread in block.threads:
        state = _state(thread, waiting.get(thread.index))
        groups[state] = groups.get(state, 0) | 1 << thread.index
    kinds = {gate.error for gate in block.gates.values()}
    error = kinds.pop() if len(kinds) == 1 else Deadlock
    reasons = [f"{listed(who)} {one if who.bit_count() == 1 else many}" for (one, many), who in groups.items()]
    return error(f"block {tuple(block.blockIdx)}: {', '.join(reasons)}")


def _state(thread: Thread, gate: Gate | None) -> tuple[str, str]:
    """What one thread does, and what many do."""
    if gate is None:
        return "has returned", "have returned"
    place = f"at {gate.name} ({where(thread.gr_frame)})"
    return f"waits {place}", f"wait {place}"


def add_note(error: BaseException, note: str) -> None:
    """Append a line to what an exception prints."""
    if sys.version_info >= (3, 11):
        error.add_note(note)
    else:
        error.args = (" ".join(map(str, (*error.args, f"[{note}]"))),)
