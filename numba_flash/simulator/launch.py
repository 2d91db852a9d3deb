"""Run a kernel: block after block, or several by turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from math import prod
from operator import index
from random import Random
from typing import Any

import numpy as np

from .block import Block
from .callpath import CallSites
from .counting import begin
from .options import Options, chosen
from .report import stuck
from .thread import Dim3, Thread, running

MAX_THREADS = 1024
MAX_GRID = Dim3(2**31 - 1, 65535, 65535)
MAX_SHARED_BYTES = 227 * 1024


@dataclass(frozen=True)
class Launch:
    """One launch: what runs, over which grid, in which order; all of its threads, and those of blocks that are done."""

    kernel: Callable[..., Any]
    arguments: Sequence[Any]
    grid: Dim3
    block: Dim3
    shared_bytes: int
    how: Options
    sites: CallSites = field(default_factory=CallSites)
    threads: list[Thread] = field(default_factory=list)
    idle: list[list[Thread]] = field(default_factory=list)

    @cached_property
    def arrange(self) -> Callable[[list[Any]], None]:
        """Put blocks, or the threads of a round, in the order in which they run."""
        return Random(self.how.seed).shuffle if self.how.seed is not None else lambda items: None

    def run(self) -> None:
        """All blocks, as many at a time as chosen; whatever happens, no thread is left in the middle of a kernel."""
        waiting, resident = _coordinates(self.grid), list[Block]()
        self.arrange(waiting)
        waiting.reverse()
        try:
            while waiting or resident:
                if waiting and len(resident) < self.how.blocks:
                    resident.append(self._start(waiting.pop()))
                elif not self._advance(resident):
                    raise stuck(resident[0])
        finally:
            self._dismiss()

    def _start(self, blockIdx: Dim3) -> Block:
        """A block, with threads that a block before it has left, or new ones."""
        if not self.idle:
            threads = [Thread(i, threadIdx) for i, threadIdx in enumerate(_coordinates(self.block))]
            self.threads.extend(threads)
            self.idle.append(threads)
        return Block(self, blockIdx, self.idle.pop())

    def _advance(self, resident: list[Block]) -> bool:
        """A round of every block; those that are done leave. False if all wait for others."""
        if len(resident) > 1:
            self.arrange(resident)
        moved = False
        for block in list(resident):
            if block.advance():
                moved = True
            elif not block.gates:
                moved = True
                resident.remove(block)
                self.idle.append(block.threads)
        return moved

    def _dismiss(self) -> None:
        """End the threads, which run their `finally` clauses."""
        for thread in self.threads:
            if thread:
                with suppress(Exception):
                    thread.throw()


def launch(
    function: Callable[..., Any],
    grid: int | Sequence[int],
    block: int | Sequence[int],
    shared_bytes: int,
    args: Sequence[Any],
) -> None:
    """Run a kernel in the simulator, to its end. Floating-point warnings are silent inside.

    Parameters
    ----------
    function : callable
        The kernel, a plain Python function.
    grid, block : int or sequence of up to three
        Number of blocks, and of threads in a block.
    shared_bytes : int
        Dynamic shared memory of a block; every byte starts as 0xFF, so that floats are NaN.
    args : sequence
        Passed to the kernel as they are.

    Raises
    ------
    ValueError
        If a size is not positive or exceeds what CUDA allows: 1024 threads, 65535 blocks along y and z, 227 KB.
    RuntimeError
        If called from a kernel.
    DivergentBarrier, Deadlock
        If threads wait for what cannot happen any more.
    Exception
        Whatever a thread raises, with a note that names the thread.
    """
    if running() is not None:
        raise RuntimeError("a kernel cannot launch a kernel")
    gridDim, blockDim = _dim3("grid", grid, MAX_GRID), _dim3("block", block, Dim3(1024, 1024, 64))
    if prod(blockDim) > MAX_THREADS:
        raise ValueError(f"{block=} has {prod(blockDim)} threads, more than {MAX_THREADS}")
    if not 0 <= shared_bytes <= MAX_SHARED_BYTES:
        raise ValueError(f"{shared_bytes=} is not in 0 .. {MAX_SHARED_BYTES}")
    begin(getattr(function, "__name__", str(function)))
    with np.errstate(all="ignore"):
        Launch(function, tuple(args), gridDim, blockDim, shared_bytes, chosen.get()).run()


def _dim3(name: str, sizes: int | Sequence[int], most: Dim3) -> Dim3:
    numbers = [index(n) for n in (sizes if isinstance(sizes, Sequence) else [sizes])]
    if not 1 <= len(numbers) <= 3:
        raise ValueError(f"{name}={sizes} is not one to three sizes")
    dim = Dim3(*numbers)
    if not all(1 <= n <= limit for n, limit in zip(dim, most, strict=True)):
        raise ValueError(f"{name}={sizes} is not between 1 and {tuple(most)}")
    return dim


def _coordinates(dim: Dim3) -> list[Dim3]:
    """All coordinates, x fastest."""
    return [Dim3(x, y, z) for z, y, x in product(range(dim.z), range(dim.y), range(dim.x))]
