"""One process of a soak: takes turns among the properties until the time is up, and reports after each turn."""

from __future__ import annotations

import contextlib
import os
import random
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

GIB = 2**30


@dataclass(frozen=True)
class Order:
    """What a worker is to do.

    until : the time at which it ends, in seconds since the epoch
    memory : the most that it may take, in bytes, on the host and on the GPU
    kernel : a rung or family of attention, in place of the backend's
    """

    seed: int
    backend: str
    folder: Path
    only: tuple[str, ...]
    until: float
    memory: int
    kernel: str = ""


@dataclass(frozen=True)
class Turn:
    """What one turn gave: how many more examples were tried of a property, and what ended its search, if anything."""

    property: str
    tried: int
    failure: Any = None
    skipped: str = ""


class TooMuchMemoryError(RuntimeError):
    """A worker took more than it may."""


def work(order: Order, report: Callable[[Turn], None]) -> None:
    """Search until the time is up or every search is over.

    Raises
    ------
    TooMuchMemoryError
        when the process has taken more than the order allows
    """
    from numba_flash.soak.properties import backend_named, find_properties, with_few_kernels, with_kernel
    from numba_flash.soak.search import Search
    from numba_flash.testing.tiles import tiny_tiles

    backend = with_few_kernels(with_kernel(backend_named(order.backend), order.kernel), order.seed)
    if backend.name == "gpu":
        limit_gpu_memory(order.memory)
    found = [(p, p.strategy(backend)) for p in find_properties(order.folder, order.only)]
    searches = [Search(p, cases, backend, order.seed, order.until) for p, cases in found if cases is not None]
    random.Random(order.seed).shuffle(searches)  # so that workers begin with different ones
    warnings.filterwarnings("ignore", "overflow encountered in cast", RuntimeWarning)  # gradients beyond float16
    with tiny_tiles() if backend.name == "simulator" else contextlib.nullcontext():
        while searches and time.time() < order.until:
            search = searches.pop(0)
            before = search.tried
            search.turn()
            report(Turn(search.what.title, search.tried - before, search.failure, search.skipped))
            if not search.over:
                searches.append(search)
            if (taken := psutil.Process(os.getpid()).memory_info().rss) > order.memory:
                raise TooMuchMemoryError(f"a worker has taken {taken / GIB:.1f} GiB of memory")


def limit_gpu_memory(count: int) -> None:
    """CuPy raises an error beyond it."""
    import cupy

    cupy.get_default_memory_pool().set_limit(size=count)


def work_in_process(order: Order, pipe: Any) -> None:
    """The same with its reports sent through a pipe, which is closed at the end."""
    with pipe:
        work(order, pipe.send)
