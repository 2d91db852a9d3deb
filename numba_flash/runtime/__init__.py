"""Starting kernels: on the caller's stream of a GPU, or thread by thread in the simulator.

This package knows no rung. A rung describes its launches; `launch` is the only way that anything starts. On a GPU a
kernel's machine code comes from memory, else from the disk (`cache`), else from the compiler (`compile`).
"""

from numba_flash.runtime.launch import Kernel, Launch, Written, launch, signature
from numba_flash.runtime.tensor_map import NO_MAP, TensorMap, map_scratch, tensor_map

__all__ = ["NO_MAP", "Kernel", "Launch", "TensorMap", "Written", "launch", "map_scratch", "signature", "tensor_map"]
