"""What a run shows to people: tables on the screen, and the speed section of a README between two markers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from numba_flash.bench.cells import CEILING, COPY, HIDDEN, PAPERS_HIDDEN, TOKENS
from numba_flash.bench.cold import ColdRow
from numba_flash.bench.host import HostRow
from numba_flash.bench.machine import describe
from numba_flash.bench.measure import Row, ceilings, first_of_each
from numba_flash.bench.plots import Picture
from numba_flash.bench.results import COLD, HOST, LADDER, LENGTHS, Result
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


def table_of(result: Result) -> Table:
    """The rows of a part for a person; one without a time says why."""
    if result.part == HOST:
        return plain_table(*host_table(result.rows), result.rows)
    if result.part == COLD:
        return plain_table(*cold_table(result.rows), result.rows)
    return speed_table(result.rows)


def speed_table(rows: Sequence[Row]) -> Table:
    """Times and rates of the ladder and its peers."""
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


def plain_table(headings: Sequence[str], lines: Sequence[Sequence[str]], rows: Sequence[Any]) -> Table:
    """The same table as a README's; what failed is red."""
    table = Table(*headings)
    for line, row in zip(lines, rows, strict=True):
        table.add_row(*line, style="red" if row.failed else None)
    return table


def host_table(rows: Sequence[HostRow]) -> tuple[list[str], list[list[str]]]:
    """Headings and lines of host costs."""
    lines = []
    for row in rows:
        ratio = "" if row.of_sdpa is None else f"{row.of_sdpa:.2f}"
        time = row.refused if row.microseconds is None else f"{row.microseconds:.1f}"
        lines.append([row.what, row.passes, row.arrays, row.dtype, time, ratio])
    return ["one call", "", "arrays", "dtype", "us", "of torch SDPA's"], lines


def cold_table(rows: Sequence[ColdRow]) -> tuple[list[str], list[list[str]]]:
    """Headings and lines of cold starts."""
    lines = []
    for row in rows:
        cache = f"{row.cache} cache" if row.cache else ""
        spread = "" if row.least is None else f"{row.least:.2f} to {row.most:.2f}"
        time = row.refused if row.seconds is None else f"{row.seconds:.2f}"
        lines.append([row.what, row.dtype, cache, time, spread, row.remark])
    return ["in a new process", "", "", "s", "of several", ""], lines


def has_markers(text: str) -> bool:
    """Once each, in order?"""
    return text.count(BEGIN) == text.count(END) == 1 and text.index(BEGIN) < text.index(END)


def write_readme(path: Path, results: Sequence[Result], pictures: Sequence[Picture]) -> None:
    """Replace what stands between the markers of a file."""
    before, _, rest = path.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n{readme_section(results, pictures, path.parent)}\n{END}{after}")


def readme_section(results: Sequence[Result], pictures: Sequence[Picture], root: Path) -> str:
    """Pictures and tables of the parts that were measured; a machine is described where it changes."""
    parts: list[str] = [picture_markup(picture, root) for picture in pictures]
    said = ""
    for result in results:
        text = section_of(result)
        if text and (facts := describe(dict(result.machine))) != said:
            parts.append(f"{facts}.")
            said = facts
        parts += text
    return "\n\n".join(parts)


def section_of(result: Result) -> list[str]:
    """The README's paragraphs of one part."""
    if result.part == LADDER:
        return ladder_section(result.rows)
    if result.part == LENGTHS:
        lengths = sorted({row.N for row in result.rows if row.operation != CEILING})
        middle = lengths[len(lengths) // 2]
        shape = f"{TOKENS // middle} sequences with {PAPERS_HIDDEN} / d heads"
        return [
            f"The curves' figures at N = {middle}, TFLOP/s of {shape}:",
            markdown(*fastest_table([row for row in result.rows if middle == row.N])),
        ]
    if result.part == HOST:
        return [
            "What one call costs the host, which does not wait for the GPU (1 x 4 heads, N = 128, d = 64):",
            markdown(*host_table([row for row in result.rows if row.microseconds is not None])),
        ]
    if result.part == COLD:
        return [
            "What a new process waits for (median of several):",
            markdown(*cold_table([row for row in result.rows if row.seconds is not None])),
        ]
    return []


def picture_markup(picture: Picture, root: Path) -> str:
    """HTML that shows a picture's light or dark version, as the reader's page is."""
    light, dark = (os.path.relpath(path, root).replace(os.sep, "/") for path in (picture.light, picture.dark))
    return (
        f'<picture>\n  <source media="(prefers-color-scheme: dark)" srcset="{dark}">\n'
        f'  <img alt="{picture.title}" src="{light}">\n</picture>'
    )


def ladder_section(rows: Sequence[Row]) -> list[str]:
    """The fastest rungs beside their peers, then every rung on the smallest problem that it was timed on."""
    limits = "; ".join(
        f"{name} {rate:.0f} {'GB/s' if name == COPY else 'TFLOP/s'}" for name, rate in ceilings(rows).items()
    )
    return [
        f"Ceilings of the same run: {limits}. Attention of {TOKENS} / N sequences with {HIDDEN} / d heads; its"
        " operations are counted as the FlashAttention papers do. Every result is checked first, providers take turns,"
        " medians.",
        markdown(*fastest_table(rows)),
        "Every rung of the ladder, on the smallest problem that it is timed on:",
        markdown(*ladder_table(rows)),
    ]


def fastest_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and lines: one line for each problem, a column for each peer."""
    fastest: dict[Any, Row] = {}
    for row in sorted((row for row in rows if row.provider in FASTEST_FIRST), key=rank):
        fastest.setdefault(problem_of(row), row)
    ours = [row for row in rows if fastest.get(problem_of(row)) is row]
    peers = list(dict.fromkeys(row.provider for row in rows if row.peer and problem_of(row) in fastest))
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
    lines = [
        [row.provider, *problem_of(row), "-" if row.milliseconds is None else f"{row.milliseconds:.2f}", rate_of(row),
         percent(row.of_ceiling)]
        for row in first_of_each(rows)
    ]  # fmt: skip
    return ["kernel", "", "d", "N", "causal", "ms", "rate", "of ceiling"], lines


def markdown(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (headings, ["---"] * len(headings), *lines))
