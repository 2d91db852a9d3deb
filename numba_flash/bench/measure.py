"""From calls to rows: check every provider of a cell, time those that are right, and compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from numba_flash.bench.cells import Cell
from numba_flash.bench.checks import Check

Call = Callable[[], Any]
Clock = Callable[[Mapping[str, Call]], dict[str, float]]  # as `timing.alternate`


@dataclass(frozen=True)
class Contest:
    """Those who solve one cell, by name, and the check of what they return."""

    ours: Mapping[str, Call]
    peers: Mapping[str, Call]
    check: Callable[[Any], Check]


@dataclass(frozen=True)
class Row:
    """One provider in one cell.

    rate, unit : TFLOP/s or GB/s
    of_ceiling : rate over what cuBLAS's product, or a copy, reached in the same run
    faster_than : for each peer, its time over this one's
    refused : why there is no time
    """

    operation: str
    dtype: str
    d: int | None
    N: int
    causal: bool | None
    provider: str
    peer: bool
    milliseconds: float | None
    rate: float | None
    unit: str
    of_ceiling: float | None
    relative_error: float | None
    refused: str = ""
    faster_than: Mapping[str, float] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Is it one of our kernels, and without a time?"""
        return bool(self.refused) and not self.peer

    @property
    def best_peer(self) -> str | None:
        """The fastest one."""
        return min(self.faster_than, key=lambda peer: self.faster_than[peer], default=None)


def measure(cell: Cell, contest: Contest, ceiling: float, clock: Clock) -> list[Row]:
    """The rows of one cell; what is wrong or cannot run gets a row without a time."""
    calls = {**contest.ours, **contest.peers}
    errors, refused = {}, {}
    for name, call in calls.items():
        try:
            found = contest.check(call())
        except Exception as error:  # whatever a peer or a broken kernel raises: the others are timed all the same
            refused[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        errors[name] = found.relative_error
        if not found.ok:
            refused[name] = f"wrong: error {found.error:.2g} > {found.allowed:.2g}"
    times = clock({name: call for name, call in calls.items() if name not in refused})
    rows = []
    for name in calls:
        milliseconds = times.get(name)
        rate = None if milliseconds is None else cell.rate(milliseconds)
        rows.append(
            Row(
                operation=cell.label,
                dtype=cell.dtype,
                d=cell.d,
                N=cell.N,
                causal=cell.causal,
                provider=name,
                peer=name in contest.peers,
                milliseconds=milliseconds,
                rate=rate,
                unit=cell.unit,
                of_ceiling=None if rate is None else rate / ceiling,
                relative_error=errors.get(name),
                refused=refused.get(name, ""),
                faster_than=ratios(name, times, contest.peers),
            )
        )
    return rows


def ratios(name: str, times: Mapping[str, float], peers: Mapping[str, Call]) -> dict[str, float]:
    """Each peer's time over that of `name`, which is no peer of itself."""
    if name not in times:
        return {}
    return {peer: times[peer] / times[name] for peer in peers if peer in times and peer != name}
