"""What this machine can run, what each rung costs, and what compiled kernels use."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import numba_flash
from numba_flash.arrays import gpu_count
from numba_flash.config import SIMULATOR, Device, current_device
from numba_flash.ladder import LADDER
from numba_flash.simulator import SIMULATED
from numba_flash.specimen import specimen

if TYPE_CHECKING:
    from numba_flash.compiled import Compiled, Variant

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
        reasons = rung.why_not(specimen(rung.operation, rung.usual_dtype, N=1024, H=8), device)
        available = "simulated" if device is SIMULATOR and rung.on_gpu else "available"
        table.add_row(rung.name, rung.idea, "; ".join(reasons) or available)
    return table


def ladder_markdown() -> str:
    """The README's table: what each rung of the GPU adds, computes and moves."""
    lines = [
        "Counted for float32 (bfloat16 on tensor cores), 8 heads of 4096 positions and d = 64, and for 4096 x 4096",
        "matrices, with the tiles of an H100; every read and write of a thread counts, whatever a cache spares it.",
        "",
        "| kernel | new here | Gflop | global memory, GB | shared memory, GB |",
        "|---|---|---|---|---|",
    ]
    for rung in LADDER:
        if not rung.on_gpu:
            continue
        problem = specimen(rung.operation, rung.usual_dtype, N=4096, H=8)
        traffic = rung.load().traffic(problem, SIMULATOR)
        shared = traffic.shared_read + traffic.shared_written
        figures = (rung.flops(problem), rung.bytes(problem, SIMULATOR), shared)
        link = f"[{rung.name}](numba_flash/kernels/{rung.name}.py)"
        lines.append(f"| {link} | {rung.idea} | {' | '.join(f'{n / 1e9:.3g}' for n in figures)} |")
    return "\n".join(lines)


def print_compiled(only: str = "", arch: str = "", dtype: str = "", dim: int = 0, usual: bool = False) -> int:
    """Compile kernels without a GPU and print what they use; 0 if none breaks a rule.

    `only` is a part of a kernel's or rung's name; empty strings and 0 choose everything. `usual` leaves out what only
    calls with options, or on rows that are read element by element, take.
    """
    from numba_flash.compiled import compile_all, variants

    chosen = [v for v in variants() if v.matches(only, arch, dtype, dim, usual)]
    if not chosen:
        print(f"no kernel matches: only={only!r}, arch={arch!r}, dtype={dtype!r}, dim={dim}", file=sys.stderr)
        return 2
    try:
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(f"compiling {len(chosen)} kernels", total=len(chosen))
            results = compile_all(chosen, lambda: progress.advance(task))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(compiled_table(results))
    broken = [result for result in results if result.broken]
    for result in broken:
        v = result.variant
        print(f"{v.kernel} {v.arch} {v.problem.dtype} d={v.d} {form(v)}: {'; '.join(result.broken)}")
    print(f"{len(results)} kernels compiled, {len(broken)} of them break a rule")
    return 1 if broken else 0


def form(v: Variant) -> str:
    """How a kernel reads its operands, and what else sets it apart from the others of its name."""
    p = v.problem
    out = getattr(p, "out_dtype", p.dtype)
    more = {
        "parts": v.vector and getattr(p, "K", v.d) % 8 != 0,
        "options": v.options,
        "deterministic": getattr(p, "deterministic", False),
        f"to {out}": out != p.dtype,
    }
    return ", ".join(["vector" if v.vector else "element", *(name for name, here in more.items() if here)])


def compiled_table(results: Sequence[Compiled]) -> Table:
    """One line per compiled kernel."""
    table = Table(box=None, pad_edge=False)
    for heading in ("kernel", "arch", "dtype", "d", "loads"):
        table.add_column(heading)
    for heading in ("threads", "registers", "shared", "spilled"):
        table.add_column(heading, justify="right")
    for result in results:
        v, use = result.variant, result.usage
        registers, spilled = ("-", "-") if use is None else (use.registers, max(use.spilled_bytes, use.reloaded_bytes))
        figures = (result.threads, registers, result.shared_bytes, spilled)
        table.add_row(v.kernel, v.arch, v.problem.dtype, str(getattr(v.problem, "d", "")), form(v), *map(str, figures))
    return table
