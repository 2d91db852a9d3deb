"""Compilers side by side: numba compiles one kernel at a time in a process, so each core has a process of its own."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

from numba_flash.simulator import SIMULATED

Result = TypeVar("Result")


def check_compiler() -> None:
    """Can this process, and others like it, compile?

    Raises
    ------
    RuntimeError
        If parts of the CUDA toolkit are missing, or the simulator stands in for the compiler.
    """
    if SIMULATED:
        raise RuntimeError("NUMBA_ENABLE_CUDASIM=1 replaces the compiler by the simulator: unset it")
    from numba_flash.runtime.compile import check_toolkit  # numba.cuda, half a second to import

    check_toolkit()


def on_all_cores(
    function: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], done: Callable[[], None]
) -> list[Result]:
    """What `function`, of a module, makes of each job's arguments, in their order; `done` is called after each."""
    workers = max(1, min(len(jobs), os.cpu_count() or 1))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(function, *job) for job in jobs]
        for _ in as_completed(futures):
            done()
    return [future.result() for future in futures]
