"""From calls to rows: check every provider of a cell, time those that are right, and compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numba_flash.bench.cells import CEILING, Cell
from numba_flash.bench.checks import Check

Call = Callable[[], Any]
Clock = Callable[[Mapping[str, Call]], dict[str, float]]  # as `timing.alternate`


@dataclass(frozen=True)
class Contest:
    """Those who solve one cell, by name, and the check of what they return."""

    ours: Mapping[str, Call]
    peers: Mapping[str, Call]
    check: Callable[[Any], Check]
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # ours: operations, bytes of global memory


@dataclass(frozen=True)
class Row:
    """One provider in one cell.

    rate, unit : TFLOP/s or GB/s
    of_ceiling : rate over what cuBLAS's product, or a copy, reached in the same run
    faster_than : for each peer, its time over this one's
    refused : why there is no time
    operations, bytes : of our kernels, by their cards: what they compute, and read and write in global memory
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
    operations: int | None = None
    bytes: int | None = None
    faster_than: Mapping[str, float] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Is it one of our kernels, and without a time?"""
        return bool(self.refused) and not self.peer

    @property
    def best_peer(self) -> str | None:
        """The fastest one."""
        return min(self.faster_than, key=lambda peer: self.faster_than[peer], default=None)


def nothing() -> None:
    """For a machine whose memory nobody holds."""


def measure(
    cell: Cell, contest: Contest, ceiling: float, clock: Clock, free_memory: Callable[[], None] = nothing
) -> list[Row]:
    """The rows of one cell; what is wrong or cannot run gets a row without a time.

    Memory is given back before every check: one library's pool must not leave too little to another one.
    """
    calls = {**contest.ours, **contest.peers}
    errors, refused = {}, {}
    for name, call in calls.items():
        free_memory()
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
        operations, bytes_moved = contest.counts.get(name, (None, None))
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
                operations=operations,
                bytes=bytes_moved,
                faster_than=ratios(name, times, contest.peers),
            )
        )
    return rows


def ratios(name: str, times: Mapping[str, float], peers: Mapping[str, Call]) -> dict[str, float]:
    """Each peer's time over that of `name`, which is no peer of itself."""
    if name not in times:
        return {}
    return {peer: times[peer] / times[name] for peer in peers if peer in times and peer != name}


def first_of_each(rows: Sequence[Row]) -> list[Row]:
    """Each of our kernels once, on the smallest problem that it was timed on."""
    first: dict[str, Row] = {}
    for row in rows:
        if not row.peer:
            first.setdefault(row.provider, row)
    return list(first.values())


def ceiling_row(name: str, dtype: str, size: int, rate: float, unit: str) -> Row:
    """What others are compared with, as a row of its own."""
    return Row(CEILING, dtype, None, size, None, name, True, None, rate, unit, None, None)


def ceilings(rows: Sequence[Row]) -> dict[str, float]:
    """The limits that a run was compared with, by name: TFLOP/s of cuBLAS's products, GB/s of a copy."""
    return {row.provider: row.rate for row in rows if row.operation == CEILING and row.rate is not None}
