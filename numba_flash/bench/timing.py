"""Fair timing on a GPU: taking turns, with CUDA events, medians after warm-up."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

WARM_UP = 2
LEAST, MOST = 5, 25  # turns of a job
SECONDS = 0.5  # what a job's turns may take together, beyond the least

FLUSHED_BYTES, FLUSHES = 2**30, 4  # about 1.5 ms on an H100
PRODUCT_SIZE, COPIED_BYTES = 8192, 2**30


def alternate(jobs: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """The median time of each job in milliseconds, all on the current stream and taking turns; slow ones take fewer."""
    turns = {}
    for name, job in jobs.items():
        slowest = max(milliseconds(job) for _ in range(WARM_UP))
        turns[name] = min(MOST, max(LEAST, int(1000 * SECONDS / slowest)))
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


@cache
def flushed_memory() -> Any:
    """What is written before every job."""
    import cupy

    return cupy.empty(FLUSHED_BYTES, "uint8")


@cache
def product_rate(dtype: str) -> float:
    """The ceiling of arithmetic: TFLOP/s of cuBLAS's product in a dtype."""
    import cupy

    a = cupy.random.default_rng(0).standard_normal((PRODUCT_SIZE, PRODUCT_SIZE), "float64").astype(dtype)
    return 2 * PRODUCT_SIZE**3 / alternate({"product": lambda: a @ a})["product"] / 1e9


@cache
def copy_rate() -> float:
    """The ceiling of memory: GB/s that a copy reads and writes."""
    import cupy

    x = cupy.zeros(COPIED_BYTES // 4, "float32")
    y = cupy.empty_like(x)
    return 2 * COPIED_BYTES / alternate({"copy": lambda: cupy.copyto(y, x)})["copy"] / 1e6
