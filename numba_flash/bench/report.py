"""What a run leaves: a table on the screen, CSV, JSON, and the tables of a README between two markers."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.table import Table

from numba_flash.bench.measure import Row
from numba_flash.ladder import FASTEST_FIRST

BEGIN, END = "<!-- speed -->", "<!-- /speed -->"


def problem_of(row: Row) -> tuple[str, str, str, str]:
    """Operation with dtype, d, N and causal, as text."""
    causal = {None: "", True: "yes", False: "no"}[row.causal]
    return f"{row.operation} {row.dtype}", str(row.d or ""), str(row.N), causal


def rate_of(row: Row) -> str:
    """Rate and unit, or that there is none."""
    return "-" if row.rate is None else f"{row.rate:.{0 if row.unit == 'GB/s' else 1}f} {row.unit}"


def percent(x: float | None) -> str:
    """A share."""
    return "-" if x is None else f"{100 * x:.0f} %"


def best_ratio(row: Row) -> str:
    """How many times as fast as the fastest peer."""
    return "" if row.best_peer is None else f"{row.faster_than[row.best_peer]:.2f}"


def table_of(rows: Sequence[Row]) -> Table:
    """The rows for a person; a row without a time says why."""
    headings = ("what", "d", "N", "causal", "provider", "ms", "rate", "of ceiling", "x best peer", "relative error")
    table = Table(*headings)
    for row in rows:
        time = "-" if row.milliseconds is None else f"{row.milliseconds:.3g}"
        error = "-" if row.relative_error is None else f"{row.relative_error:.1e}"
        name = row.provider if row.peer else f"[bold]{row.provider}[/bold]"
        result = (
            (row.refused, "", "", error)
            if row.refused
            else (rate_of(row), percent(row.of_ceiling), best_ratio(row), error)
        )
        table.add_row(*problem_of(row), name, time, *result, style="red" if row.failed else None)
    return table


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """One line a row; a column for each peer says how many times as fast as this one the row's provider is."""
    peers = list(dict.fromkeys(peer for row in rows for peer in row.faster_than))
    names = [f.name for f in fields(Row) if f.name != "faster_than"]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*names, *[f"times {peer}" for peer in peers]], restval="")
        writer.writeheader()
        for row in rows:
            values = {name: getattr(row, name) for name in names}
            writer.writerow(values | {f"times {peer}": ratio for peer, ratio in row.faster_than.items()})


def write_json(path: Path, rows: Sequence[Row], machine: Mapping[str, Any], ceilings: Mapping[str, float]) -> None:
    """The rows as objects, beside the machine and its ceilings."""
    content = {"machine": dict(machine), "ceilings": dict(ceilings), "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(content, indent=1) + "\n")


def has_markers(text: str) -> bool:
    """Once each, in order?"""
    return text.count(BEGIN) == text.count(END) == 1 and text.index(BEGIN) < text.index(END)


def write_readme(path: Path, rows: Sequence[Row], machine: str, ceilings: Mapping[str, float]) -> None:
    """Replace what stands between the markers of a file."""
    before, _, rest = path.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n{readme_tables(rows, machine, ceilings)}\n{END}{after}")


def readme_tables(rows: Sequence[Row], machine: str, ceilings: Mapping[str, float]) -> str:
    """The fastest rungs beside their peers, then every rung on the smallest problem that it was timed on."""
    limits = "; ".join(
        f"{name} {rate:.0f} {'GB/s' if name == 'copy' else 'TFLOP/s'}" for name, rate in ceilings.items()
    )
    return "\n\n".join(
        (
            f"{machine}. Ceilings of the same run: {limits}. Attention has 4 x 1024/d heads, its operations are counted"
            " as the FlashAttention papers do. Every result is checked first, providers take turns, medians.",
            markdown(*fastest_table(rows)),
            "Every rung of the ladder, on the smallest problem that it is timed on:",
            markdown(*ladder_table(rows)),
        )
    )


def fastest_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and lines: one line for each problem, a column for each peer."""
    fastest: dict[Any, Row] = {}
    for row in sorted((row for row in rows if row.provider in FASTEST_FIRST), key=rank):
        fastest.setdefault(problem_of(row), row)
    ours = [row for row in rows if fastest.get(problem_of(row)) is row]
    peers = list(dict.fromkeys(row.provider for row in rows if row.peer))
    rates = {(*problem_of(row), row.provider): rate_of(row).split()[0] for row in rows}
    lines = []
    for row in ours:
        theirs = [rates.get((*problem_of(row), peer), "") for peer in peers]
        lines.append([*problem_of(row), rate_of(row), *theirs, best_ratio(row), percent(row.of_ceiling)])
    return ["", "d", "N", "causal", "numba_flash", *peers, "x best peer", "of ceiling"], lines


def rank(row: Row) -> int:
    """The place of a rung among those that "auto" takes."""
    return FASTEST_FIRST.index(row.provider)


def ladder_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and lines: each rung once."""
    first: dict[str, Row] = {}
    for row in rows:
        if not row.peer:
            first.setdefault(row.provider, row)
    lines = [
        [row.provider, *problem_of(row), "-" if row.milliseconds is None else f"{row.milliseconds:.2f}", rate_of(row),
         percent(row.of_ceiling)]
        for row in first.values()
    ]  # fmt: skip
    return ["kernel", "", "d", "N", "causal", "ms", "rate", "of ceiling"], lines


def markdown(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (headings, ["---"] * len(headings), *lines))
