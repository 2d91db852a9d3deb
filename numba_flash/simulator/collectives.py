"""Collectives of a warp, of a warpgroup, of a block: what instruction twins are made of.

In all of them

- `value` is what the thread contributes; it is passed on as it is, so not a view of what the thread writes afterwards;
- `name` is what an error message calls the operation;
- `combine` computes from the list of all values what every thread gets. It runs once for the group, when all are there
  and before any goes on: an operation that reads or writes memory does so here.
"""

from __future__ import annotations

import sys
from typing import Any

from .errors import DivergentBarrier
from .meeting import Combine, Meeting, MeetingOfTheLiving, meet
from .thread import WARP, current

FULL_MASK = 0xFFFFFFFF


def exchange(value: Any, mask: int = FULL_MASK, *, name: str = "exchange", combine: Combine | None = None) -> Any:
    """What every lane of the warp contributes, once the lanes that `mask` names are at this call.

    Parameters
    ----------
    mask : int
        Bit i names lane i. Lanes that have returned, or that a small block lacks, are not waited for.
    value, name, combine
        See the module.

    Returns
    -------
    list of 32 values by lane, None for absent lanes, or what `combine` returned; one object for all lanes.

    Raises
    ------
    ValueError
        If `mask` does not name the lane itself.
    DivergentBarrier
        If lanes disagree on `mask`, or a named lane waits elsewhere for good.
    """
    thread = current()
    mask = int(mask) & FULL_MASK
    if not mask >> thread.lane & 1:
        raise ValueError(f"{name}: mask {mask:#010x} does not name lane {thread.lane}, which passes it")
    first = thread.index - thread.lane
    members = mask << first & thread.block.everyone
    call = sys._getframe(1)
    return meet(MeetingOfTheLiving, name, call, thread, value, members=members, first=first, size=WARP, combine=combine)


def exchange_group(
    value: Any, first: int, size: int, *, name: str = "exchange_group", combine: Combine | None = None
) -> Any:
    """What threads first .. first + size - 1 of the block contribute, once all of them are at this call.

    A thread that has returned never comes: DivergentBarrier. The list of values has `size` elements.

    Raises
    ------
    ValueError
        If the block has no such threads, or the running one is not among them.
    """
    thread = current()
    if not 0 <= first <= thread.index < first + size <= len(thread.block.threads):
        raise ValueError(f"{name}: {thread} is not in a group of {size} threads from {first} on")
    members = (1 << size) - 1 << first
    call = sys._getframe(1)
    return meet(Meeting, name, call, thread, value, members=members, first=first, size=size, combine=combine)


def exchange_warp(value: Any, *, name: str = "exchange_warp", combine: Combine | None = None) -> Any:
    """`exchange_group` of the running thread's warp: DivergentBarrier, too, if the block ends before lane 31."""
    thread = current()
    block, first = thread.block, thread.index - thread.lane
    if first + WARP > len(block.threads):
        raise DivergentBarrier(f"{name}: {thread} is in a warp of {len(block.threads) - first} lanes; all 32 take part")
    members = FULL_MASK << first
    call = sys._getframe(1)
    return meet(Meeting, name, call, thread, value, members=members, first=first, size=WARP, combine=combine)


def exchange_block(value: Any, *, name: str = "exchange_block", combine: Combine | None = None) -> Any:
    """`exchange_group` of all threads of the block."""
    thread = current()
    block = thread.block
    call = sys._getframe(1)
    return meet(
        Meeting, name, call, thread, value, members=block.everyone, first=0, size=len(block.threads), combine=combine
    )
