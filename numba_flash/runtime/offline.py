"""Kernels compiled without a GPU: PTX from numba, and what ptxas says of the machine code."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from numba_flash.runtime.launch import Kernel, compiler_options

HOW_TO_INSTALL = "python -m pip install 'cuda-toolkit[nvcc,nvrtc] == 13.0.*', or numba_flash[test]"
USAGE = {
    "registers": r"Used (\d+) registers",
    "shared_bytes": r"(\d+) bytes smem",
    "stack_bytes": r"(\d+) bytes stack frame",
    "spilled_bytes": r"(\d+) bytes spill stores",
    "reloaded_bytes": r"(\d+) bytes spill loads",
}


@dataclass(frozen=True)
class Usage:
    """What a kernel's machine code takes of a multiprocessor.

    registers : of a thread
    shared_bytes : declared by the kernel, of a block; without its launch's dynamic shared memory
    stack_bytes : local memory of a thread
    spilled_bytes, reloaded_bytes : what the instructions that save and restore registers there move
    """

    registers: int
    shared_bytes: int
    stack_bytes: int
    spilled_bytes: int
    reloaded_bytes: int


def to_ptx(kernel: Kernel, signature: Any, compute_capability: tuple[int, int]) -> str:
    """The PTX of a kernel, compiled as a launch compiles it."""
    from numba import cuda

    device = SimpleNamespace(compute_capability=compute_capability)
    with patch("numba.cuda.dispatcher.get_current_device", lambda: device):  # numba asks it for the helpers' target
        ptx, _ = cuda.compile(
            kernel.function,
            signature,
            device=False,
            abi="numba",
            cc=compute_capability,
            **compiler_options(kernel),
        )
    return ptx


def find_ptxas() -> str:
    """The path of ptxas: from a PyPI package, conda or an installed toolkit.

    Raises
    ------
    RuntimeError
        If there is none; it says what to install.
    """
    from cuda.pathfinder import find_nvidia_binary_utility

    found = find_nvidia_binary_utility("ptxas")
    if found is None:
        raise RuntimeError(f"no ptxas, the assembler of the CUDA toolkit: {HOW_TO_INSTALL}")
    return found


def assemble(ptx: str, arch: str) -> Usage:
    """What ptxas reports of PTX with one kernel.

    Raises
    ------
    RuntimeError
        If ptxas refuses it; with what it says.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        command = [find_ptxas(), "-v", f"-arch={arch}", str(source), "-o", str(Path(folder, "kernel.cubin"))]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ptxas refuses it for {arch}: {done.stderr.strip()}")
    found = {name: re.search(pattern, done.stderr) for name, pattern in USAGE.items()}
    return Usage(**{name: int(match.group(1)) if match else 0 for name, match in found.items()})
