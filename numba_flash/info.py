"""What this machine can run: versions, the GPU, and every rung with its reasons."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from rich.console import Console
from rich.table import Table

import numba_flash
from numba_flash.arrays import gpu_count
from numba_flash.config import SIMULATOR, Device, current_device
from numba_flash.ladder import LADDER, MATMUL, SOFTMAX, Rung
from numba_flash.problem import AttentionProblem, MatmulProblem
from numba_flash.simulator import SIMULATED
from numba_flash.softmax_problem import SoftmaxProblem

PACKAGES = ("numpy", "numba", "numba-cuda", "cuda-core", "llvmlite", "greenlet", "ml_dtypes", "torch")
CUPY = ("cupy-cuda13x", "cupy-cuda12x", "cupy")


def print_info(console: Console | None = None) -> int:
    """Print versions, the GPU and the ladder; returns 0, with or without a GPU."""
    console = console or Console()
    console.print(f"numba_flash {numba_flash.__version__}, Python {platform.python_version()}, {platform.platform()}")
    found = [f"{name} {version}" for name in (*PACKAGES, *CUPY) if (version := version_of(name))]
    console.print(", ".join(found))
    device = current_device(None) if SIMULATED or gpu_count() else None
    console.print(describe(device), markup=False)
    console.print(ladder_table(device))
    console.print(
        "Rows that do not start on 16 bytes, or a last axis with a stride, are read element by element, never copied."
    )
    return 0


def version_of(package: str) -> str | None:
    """An installed package's version, None where it is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def describe(device: Device | None) -> str:
    """The GPU and the simulator, in words."""
    simulator = f"simulator {'on' if SIMULATED else 'off'} (NUMBA_ENABLE_CUDASIM=1 turns it on)"
    if device is None:
        cupy = any(version_of(name) for name in CUPY)
        why = "CuPy finds no GPU" if cupy else "CuPy is not installed: pip install 'numba_flash[cu13]'"
        return f"GPU: none ({why}); {simulator}"
    major, minor = device.compute_capability
    facts = f"compute capability {major}.{minor}, {device.shared_bytes // 1024} KB of shared memory a block"
    return f"GPU: {device.name}, {facts}; {simulator}"


def ladder_table(device: Device | None) -> Table:
    """One line per rung: what it adds, and whether it runs here."""
    table = Table("kernel", "new here", "here", title="The ladder", title_justify="left")
    for rung in LADDER:
        reasons = rung.why_not(example_problem(rung), device)
        available = "simulated" if device is SIMULATOR and rung.on_gpu else "available"
        table.add_row(rung.name, rung.idea, "; ".join(reasons) or available)
    return table


def example_problem(rung: Rung) -> Any:
    """A small float32 problem that any rung of an operation would take."""
    if rung.operation == MATMUL:
        return MatmulProblem(B=1, M=1024, N=1024, K=1024, dtype="float32", out_dtype="float32")
    if rung.operation == SOFTMAX:
        return SoftmaxProblem(B=1, M=1024, N=1024, dtype="float32")
    N = 1024
    return AttentionProblem(
        B=1, Hq=8, Hk=8, Nq=N, Nk=N, d=64, dv=64, dtype="float32", scale=0.125, first=-N, last=N
    )  # fmt: skip
