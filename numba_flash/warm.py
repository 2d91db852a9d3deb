"""`python -m numba_flash cache warm`: the kernels that calls take by default, compiled before anyone waits for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

from rich.console import Console
from rich.progress import Progress

from numba_flash.compiled import merge_launches
from numba_flash.compilers import check_compiler, on_all_cores
from numba_flash.config import SHARED_BYTES, Device, device_of_arch
from numba_flash.ladder import BACKWARD, FORWARD, MATMUL, SOFTMAX, fastest_first
from numba_flash.problem import FLOATS
from numba_flash.rungs.arguments import WIDTHS
from numba_flash.runtime import Kernel, Launch, signature
from numba_flash.runtime.machine_code import machine_code
from numba_flash.simulator import SIMULATED
from numba_flash.specimen import specimen, specimen_launches

Job = tuple[Kernel, str, str]  # a kernel, its signature and architecture


def default_problems(operation: str, dtype: str) -> Iterator[Any]:
    """One for each kernel that a rung has for a dtype: every head dimension, rows on 16 bytes or not, no options."""
    widths = [None] if operation in (MATMUL, SOFTMAX) else WIDTHS
    for width, vector in product(widths, (True, False)):
        problem = specimen(operation, dtype, **({} if width is None else {"d": width}))
        if operation == MATMUL and not vector:
            yield replace(problem, K=problem.K + 4, vector=False, contiguous=(None, None))
        elif hasattr(problem, "vector"):
            yield replace(problem, vector=vector)
        elif vector:
            yield problem


def default_launches(operation: str, problem: Any, device: Device) -> list[Launch]:
    """Those of the rung that "auto" takes on a device; none where it leaves the problem to the CPU."""
    for rung in fastest_first(operation):
        if rung.on_gpu and not rung.why_not(problem, device):
            return specimen_launches(rung, problem, device)
    return []


def jobs_of(launches: Iterable[Launch], device: Device) -> list[Job]:
    """Their kernels, each once."""
    return list(dict.fromkeys((launch.kernel, signature(launch.args), device.arch) for launch in launches))


def default_jobs(device: Device) -> list[Job]:
    """The kernels that "auto" takes on a device, and those that merge results."""
    launches = [
        launch
        for operation, dtype in product((SOFTMAX, MATMUL, FORWARD, BACKWARD), FLOATS)
        for problem in default_problems(operation, dtype)
        for launch in default_launches(operation, problem, device)
    ]
    for dtype in FLOATS:
        launches += merge_launches(specimen(FORWARD, dtype))
    return jobs_of(launches, device)


def chosen_device(arch: str) -> Device:
    """The device of an architecture's name; by default the GPU of this machine.

    Raises
    ------
    ValueError
        If there is no such architecture, or no GPU and no name.
    """
    if arch:
        return device_of_arch(arch)
    from numba_flash.arrays import gpu_count
    from numba_flash.config import cuda_device

    if SIMULATED or gpu_count() == 0:
        raise ValueError(f"there is no GPU here: name an architecture with --arch ({', '.join(SHARED_BYTES)})")
    return cuda_device(0)


def run_warm(arch: str, console: Console) -> int:
    """Compile what is not in the cache yet, on all cores; the exit status.

    Raises
    ------
    ValueError
        As `chosen_device`.
    RuntimeError
        As `check_compiler`.
    """
    device = chosen_device(arch)
    check_compiler()
    jobs = default_jobs(device)
    with Progress(console=console) as progress:
        task = progress.add_task(f"kernels for {device.arch}", total=len(jobs))
        on_all_cores(machine_code, jobs, lambda: progress.advance(task))
    console.print(f"{len(jobs)} kernels for {device.arch} are compiled", highlight=False)
    return 0
