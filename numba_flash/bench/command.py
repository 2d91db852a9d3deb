"""`python -m numba_flash bench`: check, time, compare, and write down."""

from __future__ import annotations

import gc
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

import numba_flash
from numba_flash.arrays import gpu_count
from numba_flash.bench.cells import SOFTMAX, Cell, matches, plan, rungs_for
from numba_flash.bench.contests import contest
from numba_flash.bench.machine import describe, file_name, machine
from numba_flash.bench.measure import Row, measure
from numba_flash.bench.plot import write_svg
from numba_flash.bench.report import BEGIN, END, has_markers, table_of, write_csv, write_json, write_readme
from numba_flash.bench.timing import alternate, copy_rate, product_rate
from numba_flash.ladder import LADDER
from numba_flash.simulator import SIMULATED

WRONG, UNUSABLE = 1, 2  # exit statuses


def run_bench(options: Namespace, console: Console | None = None) -> int:
    """Run the command: 0 if every kernel was right and timed, 1 if not, 2 if the command cannot run."""
    console = console or Console(width=None if sys.stdout.isatty() else 140)
    if why := why_not(options):
        console.print(f"numba_flash bench: {why}", markup=False, highlight=False)
        return UNUSABLE
    todo = [cell for cell in plan(options.dtype, options.quick) if rungs_for(cell, options.only)]
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=len(todo))

        def report(cell: Cell | None) -> None:
            text = "done" if cell is None else f"{cell.label} {cell.dtype} d={cell.d or '-'} N={cell.N}"
            progress.update(task, description=text, advance=cell is None)

        rows = measure_all(todo, options.only, options.flex, report)
    console.print(table_of(rows))
    write(rows, options, console)
    failed = list(dict.fromkeys(row.provider for row in rows if row.failed))
    if failed:
        console.print(f"[red]Not timed, because wrong or unable: {', '.join(failed)}")
    return WRONG if failed else 0


def why_not(options: Namespace) -> str:
    """Why the command cannot run; empty if it can."""
    unknown = [p for p in options.only if not any(matches(rung, [p]) for rung in LADDER if rung.on_gpu)]
    if unknown:
        return f"no kernel's name begins with {', '.join(unknown)} (python -m numba_flash info lists them)"
    if options.readme and (options.only or options.quick or options.dtype):
        return "--readme needs a whole run, without --only, --quick and --dtype"
    if options.readme and not (options.readme.is_file() and has_markers(options.readme.read_text())):
        return f"{options.readme} needs the markers {BEGIN} and {END}, once each"
    if find_spec("matplotlib") is None:
        return "matplotlib is missing: pip install 'numba_flash[bench]'"
    if SIMULATED or gpu_count() == 0:
        return "needs an NVIDIA GPU that CuPy can use, and NUMBA_ENABLE_CUDASIM unset"
    if whole(options) and folder_of(options) is None:
        return "not a checkout, so say which FOLDER the results go to"
    return ""


def whole(options: Namespace) -> bool:
    """Is it the run that the checkout keeps?"""
    return not (options.only or options.quick or options.dtype)


def folder_of(options: Namespace) -> Path | None:
    """Where CSV and SVG go: the folder asked for; for a whole run the checkout's; else nowhere."""
    if options.folder:
        return options.folder
    checkout = Path(numba_flash.__file__).parents[1] / "examples" / "benchmarks"
    return checkout if whole(options) and checkout.is_dir() else None


def measure_all(
    todo: Sequence[Cell],
    patterns: Sequence[str],
    flex: bool,
    report: Callable[[Cell | None], None],
) -> list[Row]:
    """The rows of every cell, one after another; each cell's arrays are freed before the next."""
    rows = []
    for cell in todo:
        report(cell)
        ceiling = copy_rate() if cell.operation == SOFTMAX else product_rate(cell.dtype)
        rows += measure(cell, contest(cell, rungs_for(cell, patterns), flex), ceiling, alternate)
        free_memory()
        report(None)
    return rows


def free_memory() -> None:
    """Give back what the pools of CuPy and torch hold."""
    import cupy

    gc.collect()
    cupy.get_default_memory_pool().free_all_blocks()
    if "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()


def ceilings(rows: Sequence[Row]) -> dict[str, float]:
    """The limits that a run was compared with: cuBLAS's products by dtype, and a copy."""
    found = {}
    for row in rows:
        if row.rate and row.of_ceiling:
            name = "copy" if row.unit == "GB/s" else f"{row.dtype} product"
            found[name] = row.rate / row.of_ceiling
    return found


def write(rows: Sequence[Row], options: Namespace, console: Console) -> None:
    """CSV, SVG, JSON, and the README's tables if all is well, as far as asked for; says what was written."""
    facts, limits, folder, written = machine(), ceilings(rows), folder_of(options), []
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        written += [folder / f"{file_name(facts)}.csv", folder / f"{file_name(facts)}.svg"]
        write_csv(written[0], rows)
        write_svg(written[1], rows, describe(facts))
    if options.json:
        write_json(options.json, rows, facts, limits)
        written.append(options.json)
    if options.readme and not any(row.failed for row in rows):
        write_readme(options.readme, rows, describe(facts), limits)
        written.append(options.readme)
    console.print(f"{describe(facts)}\nWrote {', '.join(map(str, written)) or 'no file (name a FOLDER)'}", markup=False)
