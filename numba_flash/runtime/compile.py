"""A kernel's Python function made into machine code, with or without a GPU.

numba lowers the function to LTO-IR, the toolkit's link-time code generator makes the cubin: the same two steps wherever
a kernel is compiled, so what is measured without a GPU is what runs on one. This is the only module of the runtime
that imports numba, and nothing that finds its cubins on disk imports this module.
"""

from __future__ import annotations

import re
import threading
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from cuda.core import Linker, LinkerOptions, ObjectCode
from numba import cuda, types

from numba_flash.runtime.cache import Binary
from numba_flash.runtime.launch import Kernel

TYPES = {"P": types.uint64, "L": types.int64, "F": types.float32, "D": types.float64}
REPORTED = {
    "registers": r"Used (\d+) registers",
    "shared_bytes": r"(\d+) bytes smem",
    "stack_bytes": r"(\d+) bytes stack frame",
    "spilled_bytes": r"(\d+) bytes spill stores",
    "reloaded_bytes": r"(\d+) bytes spill loads",
}

SERIALIZED = r"\(C75\d\d\)"  # what the assembler calls its warnings about wgmma and setmaxnreg

ONE_AT_A_TIME = threading.Lock()
HOW_TO_INSTALL = "install the packages of numba_flash[cu12] or numba_flash[cu13], or those of numba_flash[test]"


def check_toolkit() -> None:
    """Raise RuntimeError, and say what to install, where the compiler's parts are missing."""
    from cuda.pathfinder import DynamicLibNotFoundError, load_nvidia_dynamic_lib

    for library in ("nvvm", "nvJitLink"):
        try:
            load_nvidia_dynamic_lib(library)
        except DynamicLibNotFoundError as error:
            raise RuntimeError(f"no {library}, a part of the CUDA toolkit: {HOW_TO_INSTALL}") from error


def compile_kernel(kernel: Kernel, signature: str, arch: str) -> Binary:
    """The machine code of a kernel for arguments of a `signature` and an architecture such as "sm_90a".

    Raises
    ------
    RuntimeError
        If the toolkit refuses it; with what it says.
    """
    return link(to_ltoir(kernel, signature, arch), arch)


def to_ltoir(kernel: Kernel, signature: str, arch: str) -> Any:
    """numba's half: a kernel as the intermediate code that the toolkit's linker takes."""
    cc = capability(arch)
    target = SimpleNamespace(compute_capability=cc[:2])
    # numba asks the current device, which need not exist here, what to compile a kernel's helpers for.
    with ONE_AT_A_TIME, patch("numba.cuda.dispatcher.get_current_device", lambda: target):
        code, _ = cuda.compile(
            kernel.function,
            numba_signature(signature),
            device=False,
            abi="numba",
            cc=cc,
            output="ltoir",
            launch_bounds=(kernel.threads, kernel.blocks),
        )
    return ObjectCode.from_ltoir(code)


def link(ltoir: Any, arch: str) -> Binary:
    """The toolkit's half: registers, instructions and their schedule, with what its report says of them."""
    linker = Linker(ltoir, options=LinkerOptions(arch=arch, link_time_optimization=True, ptxas_options=["-v"]))
    cubin = linker.link("cubin").code
    report = linker.get_info_log() or ""
    found = {name: re.search(pattern, report) for name, pattern in REPORTED.items()}
    return Binary(
        cubin=cubin,
        symbol=entry_point(cubin),
        **{name: int(match.group(1)) if match else 0 for name, match in found.items()},
        serialized=len(re.findall(SERIALIZED, report)),
    )


def to_ptx(ltoir: Any, arch: str) -> str:
    """The readable form of what `link` assembles."""
    options = LinkerOptions(arch=arch, link_time_optimization=True, ptx=True)
    return Linker(ltoir, options=options).link("ptx").code.decode().rstrip("\0")


def capability(arch: str) -> tuple[Any, ...]:
    """(9, 0, "a") for "sm_90a", (8, 0) for "sm_80": numba's way to name an architecture."""
    match = re.fullmatch(r"sm_(\d+)(\d)(a?)", arch)
    if match is None:
        raise ValueError(f"{arch!r} is no architecture (such as sm_80 or sm_90a)")
    major, minor, specific = match.groups()
    return (int(major), int(minor), specific) if specific else (int(major), int(minor))


def numba_signature(signature: str) -> Any:
    """A signature in numba's types: pointers are uint64."""
    letters = [(item[0], item[1:]) for item in signature.split(",")]
    return types.void(*[types.UniTuple(TYPES[x], int(n)) if n else TYPES[x] for x, n in letters])


def entry_point(cubin: bytes) -> str:
    """The kernel's mangled name: a cubin is an ELF file, and its code lies in a section called .text.NAME."""
    (name,) = {match.decode() for match in re.findall(rb"\0\.text\.([\w$]+)\0", cubin)}
    return name
