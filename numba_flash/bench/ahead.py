"""A plan's kernels, compiled on all cores before the first cell: one after the other they would take most of a run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from numba_flash.bench.cells import Cell, rungs_for
from numba_flash.bench.tune import specimen_of
from numba_flash.compilers import on_all_cores
from numba_flash.config import Device, cuda_device
from numba_flash.ladder import BACKWARD
from numba_flash.runtime.machine_code import machine_code
from numba_flash.specimen import specimen_launches
from numba_flash.warm import Job, jobs_of


def problems_of(cell: Cell) -> Iterator[Any]:
    """Small problems that need the kernels of a cell; gradients are timed as they come, and deterministic."""
    problem = specimen_of(cell)
    yield problem
    if cell.operation == BACKWARD:
        yield replace(problem, deterministic=True)


def jobs_for(cells: Sequence[Cell], patterns: Collection[str], device: Device) -> list[Job]:
    """What to compile for cells and the rungs that match a pattern."""
    launches = (
        launch
        for cell in cells
        for rung in rungs_for(cell, patterns)
        for problem in problems_of(cell)
        if not rung.why_not(problem, device)
        for launch in specimen_launches(rung, problem, device)
    )
    return jobs_of(launches, device)


def into_the_cache(*job: Any) -> None:
    """Compile a kernel; one that cannot be compiled says so in its cell."""
    with suppress(Exception):
        machine_code(*job)


def compile_ahead(cells: Sequence[Cell], patterns: Collection[str], say: Callable[[str, float], None]) -> None:
    """Fill the disk cache with the kernels of cells, for the GPU that times them."""
    jobs, done = jobs_for(cells, patterns, cuda_device(0)), 0

    def tell() -> None:
        nonlocal done
        done += 1
        say(f"{done} of {len(jobs)} kernels compiled", 0)

    on_all_cores(into_the_cache, jobs, tell)
