"""Starting kernels: compiled by numba on the caller's stream, or thread by thread in the simulator.

This package knows no rung. A rung describes its launches; `launch` is the only way that anything starts.
"""

from numba_flash.runtime.launch import Kernel, Launch, Written, launch, signature

__all__ = ["Kernel", "Launch", "Written", "launch", "signature"]
