"""numba's warp operations: shuffles, votes and matches."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from .collectives import FULL_MASK, exchange
from .meeting import Encounter, meet
from .thread import WARP, current


def syncwarp(mask: int = FULL_MASK) -> None:
    """Wait for the lanes that `mask` names."""
    exchange(None, mask, name="syncwarp")


def shfl_sync(mask: int, value: Any, src_lane: int) -> Any:
    """The value of lane `src_lane` modulo 32."""
    return _value_of(int(src_lane) % WARP, value, exchange(value, mask, name="shfl_sync"))


def shfl_up_sync(mask: int, value: Any, delta: int) -> Any:
    """The value of the lane `delta` below; the lane's own where there is none."""
    return _value_of(current().lane - int(delta), value, exchange(value, mask, name="shfl_up_sync"))


def shfl_down_sync(mask: int, value: Any, delta: int) -> Any:
    """The value of the lane `delta` above; the lane's own where there is none."""
    return _value_of(current().lane + int(delta), value, exchange(value, mask, name="shfl_down_sync"))


def shfl_xor_sync(mask: int, value: Any, lane_mask: int) -> Any:
    """The value of the lane whose number differs in the bits of `lane_mask`."""
    return _value_of(current().lane ^ int(lane_mask), value, exchange(value, mask, name="shfl_xor_sync"))


def all_sync(mask: int, predicate: Any) -> bool:
    """Is no lane's predicate 0?"""
    return exchange(bool(predicate), mask, name="all_sync", combine=lambda votes: all(_present(votes)))


def any_sync(mask: int, predicate: Any) -> bool:
    """Is some lane's predicate not 0?"""
    return exchange(bool(predicate), mask, name="any_sync", combine=any)


def eq_sync(mask: int, predicate: Any) -> bool:
    """Do all lanes' predicates agree?"""
    return exchange(bool(predicate), mask, name="eq_sync", combine=lambda votes: len(set(_present(votes))) == 1)


def ballot_sync(mask: int, predicate: Any) -> int:
    """The lanes whose predicate is not 0, bit i for lane i."""
    return exchange(bool(predicate), mask, name="ballot_sync", combine=_lanes)


def match_any_sync(mask: int, value: Any) -> int:
    """The lanes whose value has the bits of this lane's."""
    mine = _bits(value)
    return _lanes([bits == mine for bits in exchange(mine, mask, name="match_any_sync")])


def match_all_sync(mask: int, value: Any) -> tuple[int, bool]:
    """(the lanes of `mask`, True) if all values have the same bits, otherwise (0, False)."""
    values = exchange(_bits(value), mask, name="match_all_sync")
    same = len(set(_present(values))) == 1
    return (_lanes([bits is not None for bits in values]) if same else 0), same


def activemask() -> int:
    """The lanes that come to this call in the same scheduling round."""
    thread = current()
    first = thread.index - thread.lane
    members = FULL_MASK << first
    call = sys._getframe(1)
    return _lanes(meet(Encounter, "activemask", call, thread, True, members=members, first=first, size=WARP))


def lanemask_lt() -> int:
    """The lanes below this one."""
    return (1 << current().lane) - 1


def _value_of(lane: int, own: Any, values: list[Any]) -> Any:
    if not 0 <= lane < WARP:
        return own
    return _garbage(own) if values[lane] is None else values[lane]


def _garbage(like: Any) -> Any:
    """What hardware leaves undefined: all bits set, in the dtype of `like`."""
    dtype = np.asarray(like).dtype
    return np.frombuffer(b"\xff" * dtype.itemsize, dtype)[0]


def _bits(value: Any) -> bytes:
    return np.asarray(value).tobytes()


def _lanes(votes: list[Any]) -> int:
    return sum(1 << lane for lane, vote in enumerate(votes) if vote)


def _present(values: list[Any]) -> list[Any]:
    return [value for value in values if value is not None]
