"""One launch of one kernel, on a GPU or in the simulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from numba_flash import simulator
from numba_flash.arrays import ITEMSIZE, Array
from numba_flash.config import MAP_WORDS
from numba_flash.runtime.tensor_map import TensorMap
from numba_flash.simulator import SIMULATED


@dataclass(frozen=True)
class Kernel:
    """A kernel, named so that nothing has to be made or imported to start it where it is compiled already.

    page : the module below `numba_flash.kernels` that makes it; empty for a function of another place (`Kernel.of`)
    config : what its `make_<name>` is called with, or that function
    threads : of a block, in x
    shared_bytes : dynamic shared memory of a block
    blocks : how many blocks should fit a multiprocessor; the compiler limits registers to that
    part : which kernel of its page, where there are several
    """

    page: str
    config: tuple[Any, ...]
    threads: int
    shared_bytes: int = 0
    blocks: int = 1
    part: str = ""

    @classmethod
    def of(cls, function: Callable[..., None], threads: int, shared_bytes: int = 0) -> Kernel:
        """A kernel outside the package: compiled anew in every process."""
        return cls("", (function,), threads, shared_bytes)

    @property
    def name(self) -> str:
        """The function's name."""
        if not self.page:
            return self.config[0].__name__
        page = self.page.rpartition(".")[2]
        return f"{page}_{self.part}" if self.part else page

    @property
    def function(self) -> Callable[..., None]:
        """The Python function, for the compiler or the simulator; importing its page imports numba.cuda."""
        if not self.page:
            return self.config[0]
        return getattr(import_module(f"numba_flash.kernels.{self.page}"), f"make_{self.name}")(*self.config)


@dataclass(frozen=True)
class Written:
    """An operand that the kernel writes; all others are only read."""

    array: Array


@dataclass(frozen=True)
class Launch:
    """A kernel over `grid` blocks with its arguments.

    They are arrays (None: a null pointer), ints, tuples of ints, reals, and tensor maps, as 16 ints each.
    """

    kernel: Kernel
    grid: int
    args: tuple[Any, ...]


def signature(args: tuple[Any, ...]) -> str:
    """The types of a kernel's arguments, as in "P,L4,L,F": see `letter`."""
    return ",".join(map(letter, args))


def letter(arg: Any) -> str:
    """The type of one argument: Pointer, Long (int64), L4 a tuple of four of them, Float (32 bits) or Double."""
    if arg is None or isinstance(arg, Array | Written):
        return "P"
    if isinstance(arg, TensorMap):
        return f"L{MAP_WORDS}"
    if isinstance(arg, tuple):
        return f"L{len(arg)}"
    if isinstance(arg, np.floating):
        return "D" if arg.dtype == np.float64 else "F"
    return "L"


def launch(what: Launch, stream: int = 0, device: int | None = None) -> None:
    """Start a kernel on the CUDA stream `stream` of device ordinal `device`, or run it to its end in the simulator.

    A launch of no blocks does nothing. The host does not wait.
    """
    if what.grid == 0:
        return
    kernel = what.kernel
    if SIMULATED:
        arguments = [pointer(a) for a in what.args]
        simulator.launch(kernel.function, what.grid, kernel.threads, kernel.shared_bytes, arguments)
        return
    from numba_flash.runtime.gpu import start

    start(what, stream, device or 0)


def pointer(arg: Any) -> Any:
    """A kernel argument as the simulated kernel takes it: pointers know their array."""
    if isinstance(arg, Written):
        return simulator.Pointer(arg.array.data, writable=True)
    if isinstance(arg, Array):
        return simulator.Pointer(arg.data, writable=False)
    if isinstance(arg, TensorMap):
        return simulator.tensor_copies.encode(ITEMSIZE[arg.dtype], arg.shape, arg.strides, arg.box)
    return arg
