"""The main job run once: attention forward and backward on what the machine has, checked, timed and weighed."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from numba_flash import flash_attention_backward, reference
from numba_flash.arrays import gpu_count
from numba_flash.ops import flash_attention
from numba_flash.simulator import SIMULATED
from numba_flash.testing.tolerance import rounding_floor

REPEATS = 5
SAMPLE_SECONDS = 0.002


@dataclass(frozen=True)
class Measured:
    """Seconds (median), and bytes of memory taken beyond what was there before."""

    seconds: float
    extra_bytes: int


def run_demo(length: int | None, heads: int, dim: int, causal: bool, console: Console | None = None) -> int:
    """Run the demo and print its table; 0 if every check holds, else 1."""
    console = console or Console()
    on_gpu = gpu_count() > 0 and not SIMULATED
    xp, memory = gpu_memory() if on_gpu else (np, ProcessMemory())
    N = length or (4096 if on_gpu else 2048)
    console.print(
        f"Attention of {heads} heads, {N} positions, d = {dim}, float32{', causal' * causal}, on {place(xp)}."
    )
    rng = np.random.default_rng(0)
    q, k, v, do = (xp.asarray(rng.standard_normal((heads, N, dim), np.float32)) for _ in range(4))
    results: dict[str, Any] = {}
    measured: dict[str, Measured] = {}

    def forward() -> None:
        results["o"], results["lse"] = flash_attention(q, k, v, causal=causal, return_lse=True)

    def backward() -> None:
        o, lse = results["o"], results["lse"]
        results["gradients"] = flash_attention_backward(do, q, k, v, o, lse, causal=causal)

    def naive_forward() -> None:
        results["naive"] = naive_attention(xp, q, k, v, causal)[0]

    def naive_backward() -> None:
        results["naive gradients"] = naive_gradients(xp, do, q, k, v, causal)

    jobs = {"forward": forward, "backward": backward, "naive forward": naive_forward, "naive backward": naive_backward}
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), transient=True) as progress:
        task = progress.add_task("compiling, once per machine: about half a minute")
        first = time.perf_counter()
        forward()
        backward()
        memory.wait()
        first = time.perf_counter() - first
        for name, job in jobs.items():
            progress.update(task, description=name)
            measured[name] = measure(job, memory)
        progress.update(task, description="checking one head against the definition in float64")
        checks = check_head(results, q, k, v, do, causal)
    console.print(f"First forward and backward, with compiling or loading compiled code: {first:.1f} s")
    console.print(cost_table(measured))
    console.print(error_table(checks))
    red = [name for name, (error, allowed) in checks.items() if not error <= allowed]
    console.print(
        "[red]Beyond what is allowed: " + ", ".join(red) if red else "All results are within what is allowed."
    )
    return 1 if red else 0


def place(xp: Any) -> str:
    """Where the demo runs, in words."""
    if xp is np:
        return "the CPU (no GPU that CuPy can use)" if not SIMULATED else "the CPU"
    return xp.cuda.runtime.getDeviceProperties(0)["name"].decode()


class ProcessMemory:
    """The process's resident memory, sampled while a job runs."""

    def extra_bytes(self, job: Callable[[], None]) -> int:
        """How far a job raises resident memory at most."""
        process, done = psutil.Process(), threading.Event()
        before = peak = process.memory_info().rss

        def sample() -> None:
            nonlocal peak
            while not done.wait(SAMPLE_SECONDS):
                peak = max(peak, process.memory_info().rss)

        sampler = threading.Thread(target=sample)
        sampler.start()
        job()
        done.set()
        sampler.join()
        return peak - before

    def wait(self) -> None:
        """Host work is done when it returns."""


class PoolMemory:
    """Device memory that CuPy's pool takes."""

    def __init__(self, cupy: Any) -> None:
        self.cupy = cupy

    def extra_bytes(self, job: Callable[[], None]) -> int:
        """How far a job makes the pool grow."""
        pool = self.cupy.get_default_memory_pool()
        pool.free_all_blocks()
        before = pool.total_bytes()
        job()
        return pool.total_bytes() - before

    def wait(self) -> None:
        """Wait for the device."""
        self.cupy.cuda.Device().synchronize()


def gpu_memory() -> tuple[Any, PoolMemory]:
    """CuPy and its memory."""
    import cupy

    return cupy, PoolMemory(cupy)


def measure(job: Callable[[], None], memory: Any) -> Measured:
    """A job's memory beyond what was there, and its median time."""
    extra = memory.extra_bytes(job)
    memory.wait()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        job()
        memory.wait()
        seconds.append(time.perf_counter() - start)
    return Measured(statistics.median(seconds), extra)


def naive_attention(xp: Any, q: Any, k: Any, v: Any, causal: bool) -> tuple[Any, Any]:
    """The formula as one writes it: o and P, with the score matrix in memory."""
    p = q @ k.swapaxes(-1, -2)
    p *= q.dtype.type(q.shape[-1] ** -0.5)
    if causal:
        p[..., ~xp.tri(q.shape[-2], dtype=bool)] = -np.inf
    p -= p.max(axis=-1, keepdims=True)
    xp.exp(p, out=p)
    p /= p.sum(axis=-1, keepdims=True)
    return p @ v, p


def naive_gradients(xp: Any, do: Any, q: Any, k: Any, v: Any, causal: bool) -> tuple[Any, Any, Any]:
    """The formula's gradients: dq, dk, dv."""
    p = naive_attention(xp, q, k, v, causal)[1]
    ds = do @ v.swapaxes(-1, -2)
    ds -= (p * ds).sum(axis=-1, keepdims=True)
    ds *= p
    scale = q.dtype.type(q.shape[-1] ** -0.5)
    return ds @ k * scale, ds.swapaxes(-1, -2) @ q * scale, p.swapaxes(-1, -2) @ do


def check_head(
    results: dict[str, Any], q: Any, k: Any, v: Any, do: Any, causal: bool
) -> dict[str, tuple[float, float]]:
    """Each result's largest error on the first head, and the largest that the tolerance rule allows."""
    head = [np.asarray(x[:1].get() if hasattr(x, "get") else x[:1]) for x in (do, q, k, v)]
    expected = [reference.attention(*head[1:], causal=causal)[0], *reference.attention_vjp(*head, causal=causal)]
    ours, naive = [results["o"], *results["gradients"]], [results["naive"], *results["naive gradients"]]
    checks = {}
    for name, ref, out, formula in zip(("o", "dq", "dk", "dv"), expected, ours, naive, strict=True):
        allowed = 2 * largest_error(formula, ref) + 2 * rounding_floor(ref, "float32")
        checks[name] = (largest_error(out, ref), allowed)
    return checks


def largest_error(x: Any, ref: np.ndarray) -> float:
    """Of the first head; NaN stays NaN."""
    head = x[:1].get() if hasattr(x, "get") else x[:1]
    return float(np.abs(head - ref).max())


def cost_table(measured: dict[str, Measured]) -> Table:
    """Time and memory beside the formula's."""
    table = Table("", "time", "the formula", "faster", "memory", "the formula")
    for name in ("forward", "backward"):
        ours, naive = measured[name], measured[f"naive {name}"]
        times = [f"{m.seconds * 1e3:.1f} ms" for m in (ours, naive)]
        bytes_taken = [f"{m.extra_bytes / 1e6:.0f} MB" for m in (ours, naive)]
        table.add_row(name, *times, f"{naive.seconds / ours.seconds:.1f} x", *bytes_taken)
    return table


def error_table(checks: dict[str, tuple[float, float]]) -> Table:
    """Largest errors against the definition, and what the tolerance rule allows."""
    table = Table("result", "largest error", "allowed")
    for name, (error, allowed) in checks.items():
        table.add_row(name, f"{error:.1e}", f"{allowed:.1e}")
    return table
