"""Where machine code comes from: the disk cache, or else the compiler."""

from __future__ import annotations

from numba_flash.runtime import cache
from numba_flash.runtime.cache import Binary
from numba_flash.runtime.launch import Kernel


def machine_code(kernel: Kernel, signature: str, arch: str) -> Binary:
    """The code of a kernel for arguments of a `signature` and an architecture; what is compiled is stored."""
    if not kernel.page:
        return compiled(kernel, signature, arch)
    key = cache.key(repr(kernel), signature, arch)
    found = cache.load(kernel.name, key)
    if found is None:
        found = compiled(kernel, signature, arch)
        cache.store(kernel.name, key, found)
    return found


def compiled(kernel: Kernel, signature: str, arch: str) -> Binary:
    """The code of a kernel, from the compiler."""
    from numba_flash.runtime.compile import compile_kernel  # numba.cuda, half a second to import

    return compile_kernel(kernel, signature, arch)
