"""What a run was measured with."""

from __future__ import annotations

import datetime
import platform
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from numba_flash.arrays import gpu_count

PACKAGES = (
    "numba_flash", "numpy", "numba", "numba-cuda", "cuda-core", "cupy-cuda13x", "cupy-cuda12x", "torch", "triton",
    "flash-attn", "flash-attn-4", "fa3-fwd",
)  # fmt: skip
NO_GPU = "no GPU"
QUERY = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem,power.limit"
UNKNOWN = "unknown"


def machine() -> dict[str, str]:
    """GPU, driver, clocks, CUDA, the processor, versions of packages, and the date; all as text."""
    return {
        **(gpu() if gpu_count() else dict.fromkeys(("driver", "clocks", "cuda"), "none") | {"gpu": NO_GPU}),
        "cpu": cpu(),
        "python": platform.python_version(),
        "versions": ", ".join(f"{name} {version}" for name in PACKAGES if (version := version_of(name))),
        "date": datetime.date.today().isoformat(),
    }


def gpu() -> dict[str, str]:
    """The current GPU, its driver and clocks at this moment, and the CUDA version that CuPy was built with."""
    import cupy

    device, runtime = cupy.cuda.Device(), cupy.cuda.runtime.runtimeGetVersion()
    driver, clocks = driver_and_clocks(device.pci_bus_id)
    return {
        "gpu": cupy.cuda.runtime.getDeviceProperties(device.id)["name"].decode(),
        "driver": driver,
        "clocks": clocks,
        "cuda": f"{runtime // 1000}.{runtime % 1000 // 10}",
    }


def driver_and_clocks(bus: str) -> tuple[str, str]:
    """The driver's version and the clocks of the GPU at a PCI bus id, as nvidia-smi says them."""
    if shutil.which("nvidia-smi") is None:
        return UNKNOWN, UNKNOWN
    command = ["nvidia-smi", f"--id={bus}", f"--query-gpu={QUERY}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except subprocess.TimeoutExpired:
        return UNKNOWN, UNKNOWN
    found = [field.strip() for field in done.stdout.split("\n")[0].split(",")]
    if done.returncode or len(found) != len(QUERY.split(",")):
        return UNKNOWN, UNKNOWN
    driver, sm, sm_most, memory, memory_most, power = found
    return driver, f"SM {sm} of {sm_most}, memory {memory} of {memory_most}, limit {power}"


def cpu() -> str:
    """The processor's name."""
    facts = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)$", facts.read_text(), re.MULTILINE) if facts.is_file() else []
    return names[0].strip() if names else platform.processor() or platform.machine()


def version_of(package: str) -> str | None:
    """None where it is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def describe(machine: dict[str, str]) -> str:
    """In one line."""
    place = machine["cpu"] if machine["gpu"] == NO_GPU else machine["gpu"]
    cuda = "" if machine["gpu"] == NO_GPU else f", driver {machine['driver']}, CUDA {machine['cuda']}"
    return f"{place}{cuda}, Python {machine['python']}, {machine['versions']}, {machine['date']}"


def file_name(machine: dict[str, str]) -> str:
    """The GPU's name as a file's."""
    return re.sub(r"[^a-z0-9]+", "_", machine["gpu"].lower()).strip("_")
