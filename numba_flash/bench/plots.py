"""The pictures of a run: speed against N beside the peers, and the ladder under its roofline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numba_flash.bench.cells import COPY, TOKENS
from numba_flash.bench.labels import place_labels, settle
from numba_flash.bench.machine import file_name
from numba_flash.bench.measure import Row, ceilings, first_of_each
from numba_flash.bench.results import LADDER, LENGTHS, Result
from numba_flash.bench.style import OURS, Picture, Theme, mark, save

PASSES = ("forward", "backward")
PANEL = (4.3, 2.55)  # inches of one panel of the curves
ROOFLINE = (8.6, 5.2)
NEAR = 1.6  # how much higher a ceiling is at most for its label to be in the way of another's
SHAPES = {"softmax": "v", "forward": "o", "backward": "s", "matmul": "^"}  # marks under the roofline


def write_plots(folder: Path, results: Sequence[Result]) -> list[Picture]:
    """The pictures that results of one machine have figures for."""
    pictures = []
    for result in results:
        name = file_name(dict(result.machine))
        gpu = result.machine["gpu"]
        if result.part == LENGTHS:
            for dtype in dict.fromkeys(row.dtype for row in curves(result.rows)):
                rows = curves(result.rows, dtype)
                limit = ceilings(result.rows).get(f"{dtype} product")
                title = f"Attention in {dtype} on {gpu}: TFLOP/s against N"
                size = (PANEL[0] * len(depths(rows)), PANEL[1] * len(passes(rows)) + 0.6)
                pictures.append(save(folder, f"{name}_lengths_{dtype}", title, curves_drawer(rows, dtype, limit), size))
        if result.part == LADDER and (rows := marks(result.rows)):
            title = f"The ladder on {gpu}: operations a byte against TFLOP/s"
            pictures.append(
                save(folder, f"{name}_roofline", title, roofline_drawer(rows, ceilings(result.rows)), ROOFLINE)
            )
    return pictures


def curves(rows: Sequence[Row], dtype: str = "") -> list[Row]:
    """Attention without a mask that has a rate, in one dtype or all."""
    return [r for r in rows if r.operation in PASSES and not r.causal and r.rate and dtype in (r.dtype, "")]


def marks(rows: Sequence[Row]) -> list[Row]:
    """One row for each rung whose operations and bytes are known."""
    return [row for row in first_of_each(rows) if row.milliseconds and row.operations and row.bytes]


def depths(rows: Sequence[Row]) -> list[int]:
    """The head dimensions, smallest first."""
    return sorted({row.d for row in rows if row.d is not None})


def passes(rows: Sequence[Row]) -> list[str]:
    """Those that were timed, forward first."""
    return [name for name in PASSES if any(row.operation == name for row in rows)]


def legend_name(row: Row) -> str:
    """Our rungs share a name and a colour."""
    return row.provider if row.peer else OURS


def curves_drawer(rows: Sequence[Row], dtype: str, limit: float | None) -> Any:
    """Draws one panel for each pass and head dimension."""

    def draw(figure: Any, theme: Theme) -> None:
        names = list(dict.fromkeys(legend_name(row) for row in sorted(rows, key=lambda row: row.peer)))
        axes = figure.subplots(len(passes(rows)), len(depths(rows)), squeeze=False, sharex=True, sharey=True)
        for line, operation in zip(axes, passes(rows), strict=True):
            for axis, d in zip(line, depths(rows), strict=True):
                panel = [row for row in rows if (row.operation, row.d) == (operation, d)]
                draw_panel(axis, panel, names, theme)
                axis.set_title(f"{operation}, d = {d}")
                if limit:
                    axis.axhline(limit, color=theme.faint, linewidth=1, linestyle=(0, (4, 3)))
        top = max([row.rate or 0 for row in rows] + [limit or 0])
        axes[0, 0].set_ylim(0, 1.16 * top)
        if limit:
            text = f"cuBLAS {dtype} product: {limit:.0f}"
            axes[0, 0].annotate(text, (0.01, limit), (0, 3), xycoords=("axes fraction", "data"),
                                textcoords="offset points", color=theme.faint)  # fmt: skip
        for axis in axes[:, 0]:
            axis.set_ylabel(f"{dtype} TFLOP/s")
        for axis in axes[-1]:
            axis.set_xlabel(f"N, every query sees every key; {TOKENS // 1024}k positions in all")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=5, frameon=False,
                      borderaxespad=0, handlelength=1.8, columnspacing=1.4)  # fmt: skip

    return draw


def draw_panel(axis: Any, rows: Sequence[Row], names: Sequence[str], theme: Theme) -> None:
    """One curve for each provider, ours in front; those without a figure here keep their place in the legend."""
    lengths = sorted({row.N for row in rows})
    for name in names:
        best: dict[int, float] = {}
        for row in rows:
            if legend_name(row) == name:
                best[row.N] = max(best.get(row.N, 0), row.rate or 0)
        ours = name == OURS
        axis.plot(
            [N for N in lengths if N in best],
            [best[N] for N in lengths if N in best],
            color=theme.colour(name),
            marker=mark(name),
            markersize=6 if ours else 4.5,
            linewidth=2.4 if ours else 1.4,
            zorder=3 if ours else 2,
            label=name,
        )
    axis.set_xscale("log", base=2)
    axis.set_xticks(lengths, [thousands(N) for N in lengths])
    axis.minorticks_off()
    axis.grid(axis="y")
    axis.set_axisbelow(True)


def thousands(N: int) -> str:
    """2048 as 2k."""
    return f"{N // 1024}k" if N % 1024 == 0 else str(N)


def roofline_drawer(rows: Sequence[Row], limits: dict[str, float]) -> Any:
    """Draws the ceilings as lines and each rung as a labelled mark."""

    def draw(figure: Any, theme: Theme) -> None:
        axis = figure.subplots()
        points = [(x_of(row), y_of(row)) for row in rows]
        products = {name: rate for name, rate in limits.items() if name != COPY}
        copy = limits.get(COPY)
        left = 0.3 * min(x for x, _ in points)
        right = 5 * max([x for x, _ in points] + [1e3 * rate / copy for rate in products.values() if copy])
        low = 0.2 * min(y for _, y in points)
        high = 2.2 * max([y for _, y in points] + list(products.values()))
        axis.set(xscale="log", yscale="log", xlim=(left, right), ylim=(low, high))
        for row, (x, y) in zip(rows, points, strict=True):
            axis.plot(x, y, SHAPES[row.operation], color=theme.colour(OURS), markersize=7, zorder=3)
        for operation in dict.fromkeys(row.operation for row in rows):
            axis.plot([], [], SHAPES[operation], color=theme.colour(OURS), label=operation)
        axis.legend(loc="lower right", frameon=False)
        axis.set_xlabel("operations for each byte that threads read or write in global memory, cached or not")
        axis.set_ylabel("TFLOP/s")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
        axis.grid()
        axis.set_axisbelow(True)
        settle(figure)
        draw_ceilings(axis, products, copy, theme)
        place_labels(axis, [row.provider for row in rows], points, theme.ink, theme.faint)

    return draw


def x_of(row: Row) -> float:
    """Operations a byte."""
    assert row.operations and row.bytes
    return row.operations / row.bytes


def y_of(row: Row) -> float:
    """TFLOP/s of the operations on the card."""
    assert row.operations and row.milliseconds
    return row.operations / row.milliseconds / 1e9


def draw_ceilings(axis: Any, products: dict[str, float], copy: float | None, theme: Theme) -> None:
    """Memory's slope up to the highest product; each product from where it meets the slope."""
    (left, right), top = axis.get_xlim(), max(products.values(), default=axis.get_ylim()[1])
    style = {"color": theme.faint, "linewidth": 1.3, "zorder": 1}
    for name, rate in products.items():
        start = 1e3 * rate / copy if copy else left
        axis.plot([max(left, start), right], [rate, rate], **style)
        crowded = any(rate < other < NEAR * rate for other in products.values())
        axis.annotate(f"cuBLAS {name}: {rate:.0f}", (right, rate), (-2, -3 if crowded else 3), color=theme.faint,
                      textcoords="offset points", ha="right", va="top" if crowded else "bottom")  # fmt: skip
    if copy:
        ridge = 1e3 * top / copy
        axis.plot([left, ridge], [copy * left / 1e3, top], **style)
        (x0, y0), (x1, y1) = axis.transData.transform([(left, copy * left / 1e3), (ridge, top)])
        slope = math.degrees(math.atan2(y1 - y0, x1 - x0))
        axis.annotate(f"memory: {copy:.0f} GB/s", (ridge / 3, top / 3), (-3, 4), textcoords="offset points", ha="right",
                      rotation=slope, rotation_mode="anchor", color=theme.faint)  # fmt: skip
