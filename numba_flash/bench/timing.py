"""Fair timing on a GPU: alternating, with CUDA events, medians after warm-up."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

WARM_UP, REPEATS = 3, 15


def alternate(jobs: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """The median time of each job in milliseconds, all on the current stream and taking turns."""
    import cupy

    for job in jobs.values():
        for _ in range(WARM_UP):
            job()
    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(REPEATS):
        for name, job in jobs.items():
            begin.record()
            job()
            end.record()
            end.synchronize()
            times[name].append(cupy.cuda.get_elapsed_time(begin, end))
    return {name: statistics.median(values) for name, values in times.items()}
