"""`python -m numba_flash bench`: check, time, compare, and write down."""

from __future__ import annotations

import gc
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

import numba_flash
from numba_flash.arrays import gpu_count
from numba_flash.bench import peers
from numba_flash.bench.ahead import compile_ahead
from numba_flash.bench.cells import COPY, SOFTMAX, Cell, ladder_plan, lengths_plan, matches, rungs_for
from numba_flash.bench.cold import REPETITIONS, cold_rows, starts
from numba_flash.bench.contests import contest
from numba_flash.bench.host import HOST_DTYPES, exact_check, host_jobs, host_rows
from numba_flash.bench.machine import describe, file_name, machine
from numba_flash.bench.measure import Row, ceiling_row, measure
from numba_flash.bench.plots import write_plots
from numba_flash.bench.report import BEGIN, END, has_markers, table_of, write_readme
from numba_flash.bench.results import COLD, HOST, LADDER, LENGTHS, PARTS, Result, read_folder, write_csv, write_json
from numba_flash.bench.timing import (
    COPIED_BYTES,
    PRODUCT_SIZE,
    alternate,
    copy_rate,
    host_microseconds,
    product_rate,
)
from numba_flash.ladder import LADDER as RUNGS
from numba_flash.problem import FLOATS
from numba_flash.simulator import SIMULATED

WRONG, UNUSABLE = 1, 2  # exit statuses
REPORT = "report"  # no measurement: pictures and tables of what a folder has
ROOFS = ("float32", "float64", "bfloat16")  # whose products are the ladder's ceilings; the last: of tensor cores
QUICK_REPETITIONS = 2

Say = Callable[[str, float], None]  # what is measured next, and the share that is done


def run_bench(options: Namespace, console: Console | None = None) -> int:
    """Run the command: 0 if every kernel was right and timed, 1 if not, 2 if the command cannot run."""
    console = console or Console(width=None if sys.stdout.isatty() else 140)
    if why := why_not(options):
        console.print(f"numba_flash bench: {why}", markup=False, highlight=False, soft_wrap=True)
        return UNUSABLE
    results, folder = [], folder_of(options)
    for part in parts_of(options):
        if part != REPORT and (result := measured(part, options, console)).rows:
            console.print(table_of(result))
            results.append(result)
            if folder:  # at once: a later part may be stopped
                write_csv(folder, result)
    write(results, options, console)
    failed = list(dict.fromkeys(name for result in results for name in result.failed))
    if failed:
        console.print(f"[red]Not timed, because wrong or unable: {', '.join(failed)}")
    return WRONG if failed else 0


def why_not(options: Namespace) -> str:
    """Why the command cannot run; empty if it can."""
    unknown = [p for p in options.only if not any(matches(rung, [p]) for rung in RUNGS if rung.on_gpu)]
    if unknown:
        return f"no kernel's name begins with {', '.join(unknown)} (python -m numba_flash info lists them)"
    for option, given, there in (("part", options.part, (*PARTS, REPORT)), ("dtype", options.dtype, FLOATS)):
        if strange := [name for name in given if name not in there]:
            return f"--{option} {','.join(strange)}: there are {', '.join(there)}"
    if options.only and not {LADDER, LENGTHS, REPORT} >= set(parts_of(options)):
        return f"--only is for the parts {LADDER} and {LENGTHS}"
    if nobody := peers.unknown(options.peers):
        return nobody
    if options.readme and selection(options):
        return "--readme needs a whole run, without --only, --quick, --dtype and --peers"
    if options.readme and not (options.readme.is_file() and has_markers(options.readme.read_text())):
        return f"{options.readme} needs the markers {BEGIN} and {END}, once each"
    if folder_of(options) and find_spec("matplotlib") is None:
        return "matplotlib is missing: pip install 'numba_flash[bench]'"
    if not {COLD, REPORT} >= set(parts_of(options)):
        if SIMULATED or gpu_count() == 0:
            return f"needs an NVIDIA GPU that CuPy can use, and NUMBA_ENABLE_CUDASIM unset; --part {COLD} does not"
        if absent := peers.unusable(options.peers):
            return absent
    return why_no_folder(options)


def why_no_folder(options: Namespace) -> str:
    """What is wrong with where the results go to, or come from; empty if nothing."""
    folder = folder_of(options)
    if folder is None:
        kept_nowhere = selection(options) or gpu_count() == 0
        return "" if kept_nowhere else "not a checkout, so say which FOLDER the results go to"
    try:
        kept = read_folder(folder) if folder.is_dir() else []
    except ValueError as error:
        return f"{error}: move it away"
    if parts_of(options) == [REPORT] and len(gpus := sorted({result.machine["gpu"] for result in kept})) != 1:
        return f"{folder} needs results of one machine, and has those of {', '.join(gpus) or 'none'}"
    return ""


def parts_of(options: Namespace) -> list[str]:
    """The parts to run, in their order; kernels are chosen for two of them only."""
    asked = options.part or ((LADDER, LENGTHS) if options.only else PARTS)
    return [part for part in (*PARTS, REPORT) if part in asked]


def selection(options: Namespace) -> str:
    """The options that leave something out, as they may be typed; empty for a whole run."""
    lists = (("only", options.only), ("dtype", options.dtype), ("peers", options.peers))
    given = [f"--{option} {','.join(names)}" for option, names in lists if names]
    return " ".join([*given, *["--quick"] * options.quick])


def folder_of(options: Namespace) -> Path | None:
    """Where CSV and SVG go: the folder asked for; for a whole run on a GPU the checkout's; else nowhere."""
    if options.folder:
        return options.folder
    checkout = Path(numba_flash.__file__).parents[1] / "examples" / "benchmarks"
    whole = not selection(options) and (gpu_count() > 0 or parts_of(options) == [REPORT])
    return checkout if whole and checkout.is_dir() else None


def measured(part: str, options: Namespace, console: Console) -> Result:
    """Measure one part."""
    begin = time.perf_counter()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(part, total=1.0)

        def say(text: str, done: float) -> None:
            progress.update(task, description=f"{part}: {text}", completed=done)

        rows = MEASURES[part](options, say)
    facts = {**machine(), "absent": "" if part == COLD else ", ".join(peers.absent())}
    return Result(part, rows, facts, selection(options), time.perf_counter() - begin)


def measure_ladder(options: Namespace, say: Say) -> list[Row]:
    """Every kernel."""
    return measure_cells(ladder_plan(options.dtype, options.quick), ROOFS, options, say)


def measure_lengths(options: Namespace, say: Say) -> list[Row]:
    """The fastest kernels of attention for several N."""
    return measure_cells(lengths_plan(options.dtype, options.quick), (), options, say)


def measure_cells(plan: Sequence[Cell], roofs: Sequence[str], options: Namespace, say: Say) -> list[Row]:
    """The rows of every cell that has a chosen kernel; each cell's arrays are freed before the next. Ceilings first."""
    todo = [cell for cell in plan if rungs_for(cell, options.only)]
    if not todo:
        return []
    compile_ahead(todo, options.only, say)
    say("ceilings", 0)
    products = dict.fromkeys([*roofs, *[cell.dtype for cell in todo if cell.operation != SOFTMAX]])
    rows = [ceiling_row(COPY, "float32", COPIED_BYTES, copy_rate(), "GB/s")]
    rows += [ceiling_row(f"{t} product", t, PRODUCT_SIZE, product_rate(t), "TFLOP/s") for t in products]
    for number, cell in enumerate(todo):
        say(f"{cell.label} {cell.dtype} d={cell.d or '-'} N={cell.N}", number / len(todo))
        ceiling = copy_rate() if cell.operation == SOFTMAX else product_rate(cell.dtype)
        entrants = contest(cell, rungs_for(cell, options.only), options.peers)
        rows += measure(cell, entrants, ceiling, alternate, free_memory)
        del entrants
        free_memory()
    return rows


def measure_host(options: Namespace, say: Say) -> list[Any]:
    """What a call costs the host."""
    say("checking and timing", 0)
    return host_rows(host_jobs(options.dtype or HOST_DTYPES, options.peers), exact_check, host_clock)


def host_clock(jobs: Any) -> Any:
    """`host_microseconds` with CuPy's way to wait."""
    import cupy

    return host_microseconds(jobs, cupy.cuda.Device().synchronize)


def measure_cold(options: Namespace, say: Say) -> list[Any]:
    """What a new process waits for."""
    usable = gpu_count() > 0 and not SIMULATED
    return cold_rows(starts(usable, options.dtype), QUICK_REPETITIONS if options.quick else REPETITIONS, say)


MEASURES = {LADDER: measure_ladder, LENGTHS: measure_lengths, HOST: measure_host, COLD: measure_cold}


def free_memory() -> None:
    """Give back what the pools of CuPy and torch hold."""
    import cupy

    gc.collect()
    cupy.get_default_memory_pool().free_all_blocks()
    if "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()


def write(results: Sequence[Result], options: Namespace, console: Console) -> None:
    """SVG, JSON, and the README's section if all is well, as far as asked for; says what was written, CSV included."""
    folder, written, remark = folder_of(options), [], ""
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        written += [result.path(folder) for result in results]
        kept = [r for r in read_folder(folder) if not results or same_gpu(r, results[0])]
        drawn = not results or options.readme or {LADDER, LENGTHS} & {result.part for result in results}
        pictures = write_plots(folder, kept) if drawn else []
        written += [path for picture in pictures for path in (picture.light, picture.dark)]
        if options.readme and any(result.failed or result.selection for result in kept):
            remark = f"\n{options.readme} stays as it is: the results in {folder} are not whole, or something failed."
        elif options.readme:
            write_readme(options.readme, kept, pictures)
            written.append(options.readme)
    if options.json:
        write_json(options.json, results)
        written.append(options.json)
    for result in results[-1:]:
        console.print(describe(dict(result.machine)), markup=False)
    for result in results:
        console.print(f"{result.part} took {result.seconds:.0f} s")
    console.print(
        f"Wrote {', '.join(map(str, written)) or 'no file (name a FOLDER)'}{remark}", markup=False, soft_wrap=True
    )


def same_gpu(a: Result, b: Result) -> bool:
    """Are two results of one kind of GPU?"""
    return file_name(dict(a.machine)) == file_name(dict(b.machine))
