"""Fair timing: taking turns, medians after warm-up; of the GPU's work with CUDA events, of the host's with a clock."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from numba_flash.bench.formula import WIDE

WARM_UP = 2
LEAST, MOST = 5, 25  # turns of a job
SECONDS = 0.5  # what a job's turns may take together, beyond the least

FLUSHED_BYTES, FLUSHES = 2**30, 4  # about 1.5 ms on an H100
PRODUCT_SIZE, COPIED_BYTES = 8192, 2**30
HOST_TURNS, HOST_CALLS, HOST_WARM_UP = 40, 10, 5  # so few calls in a row that the GPU's queue has room for them


def alternate(jobs: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """The median time of each job in milliseconds, all on the current stream and taking turns; slow ones take fewer."""
    turns = {}
    for name, job in jobs.items():
        usual = min(milliseconds(job) for _ in range(WARM_UP))  # the first may compile, or choose an algorithm
        turns[name] = min(MOST, max(LEAST, int(1000 * SECONDS / usual)))
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(MOST):
        for name, job in jobs.items():
            if turn < turns[name]:
                times[name].append(milliseconds(job))
    return {name: statistics.median(values) for name, values in times.items()}


def milliseconds(job: Callable[[], Any]) -> float:
    """The time between a CUDA event before a job and one behind it.

    The GPU first writes some memory. That empties its cache of the job's operands, and meanwhile the host prepares the
    job: what is timed is the GPU's work, as in a program that launches one call after another.
    """
    import cupy

    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    flushed = flushed_memory()
    for _ in range(FLUSHES):
        flushed.fill(0)
    begin.record()
    job()
    end.record()
    end.synchronize()
    return cupy.cuda.get_elapsed_time(begin, end)


def host_microseconds(
    jobs: Mapping[str, Callable[[], Any]],
    synchronize: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """The median time that the host takes for each job, while the GPU is not waited for; jobs take turns.

    The GPU is idle when a job's turn begins, and garbage is not collected during it.
    """
    for job in jobs.values():
        for _ in range(HOST_WARM_UP):
            job()
    times: dict[str, list[float]] = {name: [] for name in jobs}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(HOST_TURNS):
            gc.collect()
            for name, job in jobs.items():
                synchronize()
                for _ in range(HOST_CALLS):
                    begin = clock()
                    job()
                    times[name].append(clock() - begin)
    finally:
        synchronize()
        if collecting:
            gc.enable()
    return {name: 1e6 * statistics.median(values) for name, values in times.items()}


@cache
def flushed_memory() -> Any:
    """What is written before every job."""
    import cupy

    return cupy.empty(FLUSHED_BYTES, "uint8")


@cache
def product_rate(dtype: str) -> float:
    """The ceiling of arithmetic: TFLOP/s of cuBLAS's product in a dtype."""
    import cupy

    a = cupy.random.default_rng(0).standard_normal((PRODUCT_SIZE, PRODUCT_SIZE), WIDE[dtype]).astype(dtype)
    return 2 * PRODUCT_SIZE**3 / alternate({"product": lambda: a @ a})["product"] / 1e9


@cache
def copy_rate() -> float:
    """The ceiling of memory: GB/s that a copy reads and writes."""
    import cupy

    x = cupy.zeros(COPIED_BYTES // 4, "float32")
    y = cupy.empty_like(x)
    return 2 * COPIED_BYTES / alternate({"copy": lambda: cupy.copyto(y, x)})["copy"] / 1e6
