"""One CUDA thread, which is one greenlet: it runs until it parks, and another one continues."""

from __future__ import annotations

from contextvars import copy_context
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from greenlet import getcurrent, greenlet

from .copies import Copies

if TYPE_CHECKING:
    from .block import Block
    from .pointer import Window
    from .tensor_copies import TensorMap

WARP, WARPGROUP = 32, 128


class Dim3(NamedTuple):
    """Sizes of, or coordinates in, a grid or a block."""

    x: int
    y: int = 1
    z: int = 1


class Thread(greenlet):
    """A thread of a simulated block; the same object serves block after block of a launch.

    Attributes
    ----------
    threadIdx, blockIdx, blockDim, gridDim : Dim3
    index : int
        The thread's number in its block, x fastest; `warp` and `lane` are its quotient and remainder by 32.
    block : Block
    copies, stores : Copies
        The thread's asynchronous copies: to shared memory by itself, and to global memory by the tensor copies' unit.
    maps, written_maps
        Tensor maps that the thread has acquired, and those that it has not released.
    fenced, has_fenced
        Registers that products of the thread's warpgroup take, by `id`, with their bytes at its last fence of them; has
        there been one?
    """

    def __init__(self, index: int, threadIdx: Dim3) -> None:
        super().__init__()
        self.gr_context = copy_context()
        self.threadIdx = threadIdx
        self.index = index
        self.warp, self.lane = divmod(index, WARP)

    def enter(self, block: Block) -> None:
        """Become a thread of this block."""
        self.block = block
        self.blockIdx, self.blockDim, self.gridDim = block.blockIdx, block.blockDim, block.gridDim
        self.copies, self.stores = Copies(block.early), Copies(block.early)
        self.maps: dict[int, TensorMap] = {}
        self.written_maps: list[tuple[Window, int]] = []
        self.fenced: dict[int, tuple[np.ndarray, bytes | None]] = {}
        self.has_fenced = False

    def run(self) -> None:
        """The kernel, once for every block."""
        while True:
            self.block.kernel(*self.block.arguments)
            self.block.returned |= 1 << self.index
            self.block.scheduler.switch()

    def __str__(self) -> str:
        return f"thread {tuple(self.threadIdx)} of block {tuple(self.blockIdx)}"


def running() -> Thread | None:
    """The thread that runs, or None on the host."""
    thread = getcurrent()
    return thread if isinstance(thread, Thread) else None


def current() -> Thread:
    """The thread that runs.

    Raises
    ------
    RuntimeError
        Outside of a kernel.
    """
    thread = getcurrent()
    if not isinstance(thread, Thread):
        raise RuntimeError("no simulated thread is running: this works only inside of a kernel")
    return thread
