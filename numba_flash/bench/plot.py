"""The rows of a run as bars, in one SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numba_flash.bench.measure import Row
from numba_flash.bench.report import problem_of

WIDTH, HEIGHT, BAR = 12, 3.2, 0.8


def write_svg(path: Path, rows: Sequence[Row], title: str) -> None:
    """One panel for each operation and dtype, one group of bars for each problem; peers are grey."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "numba_flash"
    from matplotlib import pyplot

    timed = [row for row in rows if row.rate is not None]
    panels = list(dict.fromkeys(problem_of(row)[0] for row in timed))
    figure, axes = pyplot.subplots(
        len(panels) or 1, 1, squeeze=False, figsize=(WIDTH, HEIGHT * (len(panels) or 1)), layout="constrained"
    )
    figure.suptitle(title, fontsize=9)
    for axis, panel in zip(axes[:, 0], panels, strict=False):
        draw(axis, panel, [row for row in timed if problem_of(row)[0] == panel])
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def draw(axis: Any, panel: str, rows: Sequence[Row]) -> None:
    """One panel: rates as bars, the ceiling as a line."""
    problems = list(dict.fromkeys(problem_of(row)[1:] for row in rows))
    providers = list(dict.fromkeys(row.provider for row in sorted(rows, key=lambda row: row.peer)))
    peers = [row.provider for row in rows if row.peer]
    greys = {peer: str(0.45 + 0.4 * n / len(set(peers))) for n, peer in enumerate(dict.fromkeys(peers))}
    for place, provider in enumerate(providers):
        bars = {problem_of(row)[1:]: row.rate for row in rows if row.provider == provider}
        at = [problems.index(problem) + BAR * (place + 0.5) / len(providers) for problem in bars]
        width = BAR / len(providers)
        axis.bar(at, list(bars.values()), width, label=provider, color=greys.get(provider))
    fastest = max(rows, key=lambda row: row.rate or 0)
    if fastest.rate and fastest.of_ceiling:
        axis.axhline(fastest.rate / fastest.of_ceiling, color="black", linewidth=0.7, linestyle=":")
    axis.set_title(panel, loc="left", fontsize=9)
    axis.set_ylabel(rows[0].unit)
    axis.set_xticks([n + BAR / 2 for n in range(len(problems))], [label(p) for p in problems], fontsize=8)
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))


def label(problem: tuple[str, str, str]) -> str:
    """A problem below its bars."""
    d, N, causal = problem
    return "\n".join(([f"d = {d}"] if d else []) + [f"N = {N}"] + ["causal"] * (causal == "yes"))
