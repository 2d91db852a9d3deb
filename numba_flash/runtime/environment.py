"""What machine code depends on beside a kernel's own choices: our sources, the compilers, and their switches.

Versions are read from the names of installed distributions' folders, and no compiler is imported.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
NOT_COMPILED = (
    "algorithms",
    "bench",
    "cpu",
    "simulator",
    "soak",
    "testing",
)  # folders that no kernel's code comes from
COMPILERS = (
    r"(numba|numba.cuda|llvmlite|numpy|cuda.(core|bindings|pathfinder)|nvidia.(cuda.)?(nvvm|nvjitlink|nvcc|nvrtc)(.cu\d+)?)"
    r"-.*\.(dist|egg)-info"
)
CONDA_COMPILERS = r"(cuda-(nvvm|nvcc|nvrtc)|libnvjitlink|libnvvm).*\.json"
SWITCHES = (
    "NUMBA_OPT",
    "NUMBA_DEBUGINFO",
    "NUMBA_CUDA_DEBUGINFO",
    "NUMBA_BOUNDSCHECK",
    "NUMBA_EXTEND_VARIABLE_LIFETIMES",
    "NUMBA_FORCE_CUDA_CC",
    "NUMBA_CUDA_DEFAULT_PTX_CC",
)


@cache
def environment() -> tuple[str, ...]:
    """Everything that two processes must have in common to compile a kernel to the same machine code.

    Python's version is part of it, since its bytecode is what numba compiles. NVVM and nvJitLink are known by the
    wheels on `sys.path`, by conda's records, and by the `version.json` of a toolkit in CUDA_PATH, CUDA_HOME or
    /usr/local/cuda: where numba-cuda looks for them.
    """
    python = sys.implementation.cache_tag or sys.version
    switches = [f"{name}={os.environ[name]}" for name in SWITCHES if name in os.environ]
    return (python, source_digest(), *distributions(), *conda_packages(), *toolkits(), *switches)


def source_digest() -> str:
    """A digest of the sources that can change machine code, with their names."""
    digest = hashlib.sha256()
    for file in sources():
        content = file.read_bytes()
        digest.update(f"{file.relative_to(PACKAGE).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def sources() -> list[Path]:
    """The package's files without those of the folders that kernels do not use."""
    files = list(PACKAGE.glob("*.py"))
    for folder in PACKAGE.iterdir():
        if folder.name not in NOT_COMPILED:
            files += folder.rglob("*.py")
    return sorted(files)


def distributions() -> Iterator[str]:
    """The compilers and their parts among installed distributions, as in `numba_cuda-0.30.4.dist-info`."""
    for folder in dict.fromkeys(sys.path):
        yield from (name for name in listed(folder or ".") if re.fullmatch(COMPILERS, name, re.IGNORECASE))


def conda_packages() -> Iterator[str]:
    """The compilers of an active conda environment, with version and build."""
    if prefix := os.environ.get("CONDA_PREFIX"):
        yield from (name for name in listed(os.path.join(prefix, "conda-meta")) if re.fullmatch(CONDA_COMPILERS, name))


def toolkits() -> Iterator[str]:
    """What installed CUDA toolkits say of their parts."""
    for folder in (os.environ.get("CUDA_PATH"), os.environ.get("CUDA_HOME"), "/usr/local/cuda"):
        if folder:
            try:
                yield Path(folder, "version.json").read_text(errors="replace")
            except OSError:
                continue


def listed(folder: str) -> list[str]:
    """The names in a folder, in order; none where it cannot be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
