"""`python -m numba_flash tune`: with which tile sizes is a rung fastest on this GPU?

Every candidate is compiled, on all cores. Those whose kernels keep all they need in registers are checked, and timed a
few times on the same arrays; the fastest ones, and the tile sizes that the rung takes now, once more and longer.
Nothing is changed: the table is for whoever edits the rung's module.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from rich.console import Console
from rich.progress import Progress, track
from rich.table import Table

from numba_flash.arrays import gpu_count
from numba_flash.bench.candidates import SPACES
from numba_flash.bench.cells import Cell
from numba_flash.bench.contests import contest
from numba_flash.bench.measure import Contest
from numba_flash.bench.timing import alternate, milliseconds
from numba_flash.compilers import on_all_cores
from numba_flash.config import Device, current_device
from numba_flash.ladder import LADDER, MATMUL, Rung
from numba_flash.runtime.machine_code import machine_code
from numba_flash.simulator import SIMULATED
from numba_flash.specimen import specimen, specimen_launches
from numba_flash.testing.tiles import other_plans
from numba_flash.warm import Job, jobs_of

UNUSABLE = 2  # exit status
LOOKS = 3  # how often a candidate is timed at first
FINALISTS = 8
NOBODY = ("nobody",)  # of the peers: no name begins so


@dataclass(frozen=True)
class Tried:
    """What became of one choice of tile sizes; None: the rung's present one.

    registers : of a thread, the most of its kernels
    milliseconds : None if it was not timed
    refused : why not
    """

    tiles: Any
    registers: int = 0
    milliseconds: float | None = None
    refused: str = ""


def run_tune(options: Namespace, console: Console | None = None) -> int:
    """Run the command: 0, or 2 if it cannot run."""
    console = console or Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    if why := why_not(options.kernel, options.dtype):
        console.print(f"numba_flash tune: {why}", markup=False, soft_wrap=True)
        return UNUSABLE
    rung = named(options.kernel)
    product = rung.operation == MATMUL
    shape = {} if product else {"d": options.dim, "causal": options.causal}
    cell = Cell(rung.operation, options.dtype or rung.usual_dtype, options.length, **shape)
    tried = tune(rung, cell, current_device(None), console)
    console.print(table_of(rung, cell, tried))
    return 0


def named(kernel: str) -> Rung:
    """The rung of this name."""
    return next(rung for rung in LADDER if rung.name == kernel)


def why_not(kernel: str, dtype: str) -> str:
    """Why a kernel cannot be tuned here; empty if it can."""
    if kernel not in SPACES:
        return f"no tile sizes to choose for {kernel!r} (there are {', '.join(SPACES)})"
    if dtype and dtype not in named(kernel).dtypes:
        return f"{kernel} takes {', '.join(named(kernel).dtypes)}, not {dtype}"
    if SIMULATED or gpu_count() == 0:
        return "needs an NVIDIA GPU that CuPy can use, and NUMBA_ENABLE_CUDASIM unset"
    return ""


def tune(rung: Rung, cell: Cell, device: Device, console: Console) -> list[Tried]:
    """Every candidate, fastest first."""
    candidates = [None, *SPACES[rung.name].candidates(specimen_of(cell))]
    found = [compiled(rung, cell, device, tiles) for tiles in candidates]
    jobs = list(dict.fromkeys(job for each in found for job in each))
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("compiling", total=len(jobs))
        codes_of = dict(zip(jobs, on_all_cores(machine_code, jobs, lambda: progress.advance(task)), strict=True))
    entrants = contest(cell, [rung], NOBODY)
    tried = []
    for tiles, mine in track(list(zip(candidates, found, strict=True)), "timing", console=console, transient=True):
        codes = [codes_of[job] for job in mine]
        spilled = any(code.spilled_bytes or code.stack_bytes for code in codes)
        if codes and (tiles is None or not spilled):
            tried.append(looked_at(rung, tiles, max(code.registers for code in codes), entrants))
    fastest = sorted(tried, key=rank)
    finalists = [t for n, t in enumerate(fastest) if (n < FINALISTS or t.tiles is None) and not t.refused]
    again = [timed(rung, t, entrants) for t in finalists]
    return sorted(again, key=rank) + [t for t in fastest if t not in finalists]


def rank(t: Tried) -> float:
    """Its time; those without come last."""
    return float("inf") if t.milliseconds is None else t.milliseconds


def specimen_of(cell: Cell) -> Any:
    """A small problem that needs the same kernels."""
    return specimen(cell.operation, cell.dtype, **({} if cell.d is None else {"d": cell.d}))


@contextmanager
def chosen(rung: Rung, tiles: Any) -> Iterator[None]:
    """Run a rung with these tile sizes; with None, its own."""
    table = getattr(rung.load(), SPACES[rung.name].table)
    other = {} if tiles is None else {key: [tiles] if isinstance(old, list) else tiles for key, old in table.items()}
    with other_plans(), patch.dict(table, other):
        yield


def compiled(rung: Rung, cell: Cell, device: Device, tiles: Any) -> list[Job]:
    """The kernels to compile for a choice; none if a block would need too much shared memory."""
    problem = specimen_of(cell)
    with chosen(rung, tiles):
        if rung.why_not(problem, device):
            return []
        launches = specimen_launches(rung, problem, device)
    if any(launch.kernel.shared_bytes * launch.kernel.blocks > device.shared_bytes for launch in launches):
        return []
    return jobs_of(launches, device)


def looked_at(rung: Rung, tiles: Any, registers: int, entrants: Contest) -> Tried:
    """One choice, checked and timed a few times."""
    call = entrants.ours[rung.name]
    with chosen(rung, tiles):
        try:
            found = entrants.check(call())
        except RuntimeError as error:  # the driver refuses the launch
            return Tried(tiles, registers, refused=str(error).splitlines()[0])
        if not found.ok:
            return Tried(tiles, registers, refused=f"wrong: error {found.error:.2g} > {found.allowed:.2g}")
        return Tried(tiles, registers, min(milliseconds(call) for _ in range(LOOKS)))


def timed(rung: Rung, tried: Tried, entrants: Contest) -> Tried:
    """The same choice with the median of more turns."""
    with chosen(rung, tried.tiles):
        return replace(tried, milliseconds=alternate({"call": entrants.ours[rung.name]})["call"])


def table_of(rung: Rung, cell: Cell, tried: Sequence[Tried]) -> Table:
    """The finalists, the present choice and the wrong ones."""
    shape = "" if cell.d is None else f" d={cell.d}{' causal' if cell.causal else ''}"
    table = Table("tile sizes", "registers", "ms", cell.unit, title=f"{rung.name} {cell.dtype} N={cell.N}{shape}")
    for n, t in enumerate(tried):
        if n >= FINALISTS and t.tiles is not None and not t.refused:
            continue
        name = "those of now" if t.tiles is None else str(t.tiles)
        ms = t.milliseconds
        speed = (t.refused, "") if ms is None else (f"{ms:.3f}", f"{cell.rate(ms):.1f}")
        table.add_row(name, str(t.registers), *speed, style="bold" if t.tiles is None else None)
    return table
