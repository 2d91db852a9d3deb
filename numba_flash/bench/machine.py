"""What a run was measured with."""

from __future__ import annotations

import datetime
import re
import shutil
import subprocess
from importlib import metadata
from typing import Any

PACKAGES = ("numba_flash", "numba", "numba-cuda", "cupy-cuda13x", "cupy-cuda12x", "torch")


def machine() -> dict[str, Any]:
    """GPU, driver, CUDA, versions of packages, and the date."""
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    runtime = cupy.cuda.runtime.runtimeGetVersion()
    return {
        "gpu": properties["name"].decode(),
        "driver": driver(),
        "cuda": f"{runtime // 1000}.{runtime % 1000 // 10}",
        "versions": {name: version for name in PACKAGES if (version := version_of(name))},
        "date": datetime.date.today().isoformat(),
    }


def driver() -> str:
    """The driver's version, as nvidia-smi says it."""
    if shutil.which("nvidia-smi") is None:
        return "unknown"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True).stdout.split("\n")[0].strip() or "unknown"


def version_of(package: str) -> str | None:
    """None where it is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def describe(machine: dict[str, Any]) -> str:
    """In one line."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return f"{machine['gpu']}, driver {machine['driver']}, CUDA {machine['cuda']}, {versions}, {machine['date']}"


def file_name(machine: dict[str, Any]) -> str:
    """The GPU's name as a file's."""
    return re.sub(r"[^a-z0-9]+", "_", machine["gpu"].lower()).strip("_")
