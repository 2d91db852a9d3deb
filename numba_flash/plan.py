"""What a call does, but for the addresses of its arrays: made once for all calls that look alike, then only run.

A planner checks a call, chooses its rung and lists its steps, all on outlines (`numba_flash.outline`). Its plan makes
the results, fills in the addresses and starts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any

from numba_flash.arrays import CUPY, ITEMSIZE, NUMPY, Array, describe, stream_handle, to_gpu, to_host, wrap
from numba_flash.outline import Outline, Outlines
from numba_flash.problem import Operands
from numba_flash.runtime import Launch, Written, launch
from numba_flash.tiling import round_up

APART = 256  # bytes: scratch arrays start on such multiples, as allocations of their own do


@dataclass(frozen=True)
class Fill:
    """Set every element of a result."""

    array: Array
    value: float


@dataclass(frozen=True)
class HostCall:
    """Call a function of the CPU path."""

    function: Callable[..., None]
    args: tuple[Any, ...]


Step = Fill | HostCall | Launch


@dataclass(frozen=True)
class Made:
    """An array that a call makes: a result, or scratch, which lies `offset` bytes into the one allocation for that."""

    shape: tuple[int, ...]
    dtype: str
    offset: int | None


@dataclass(frozen=True)
class HostPlan:
    """A call on host memory: the CPU path's, or the simulator's."""

    made: tuple[Made, ...]
    steps: tuple[Step, ...]

    def run(self, operands: Sequence[Any], stream: Any) -> list[Any]:
        """The results, NumPy arrays."""
        made = [NUMPY.empty(x.shape, x.dtype, None) for x in self.made]
        memory = [*operands, *made]
        for step in self.steps:
            if isinstance(step, Fill):
                bound(step.array, memory).fill(step.value)
            elif isinstance(step, Launch):
                launch(replace(step, args=bound(step.args, memory)))
            else:
                step.function(*bound(step.args, memory))
        return [x for x, what in zip(made, self.made, strict=True) if what.offset is None]


def bound(x: Any, memory: Sequence[Any]) -> Any:
    """`x` with every outline in it replaced by the NumPy array that it stands for."""
    if isinstance(x, Array):
        outline: Outline = x.data
        return wrap(NUMPY.view(memory[outline.source], outline.offset, outline.shape, outline.strides), NUMPY)
    if isinstance(x, tuple):
        return tuple(bound(item, memory) for item in x)
    if isinstance(x, Operands | Written):
        return replace(x, **{f.name: bound(getattr(x, f.name), memory) for f in fields(x)})
    return x


@dataclass(frozen=True)
class GpuPlan:
    """A call on a GPU.

    library, device : of the results
    addresses : for each operand, its library's way to look up an address
    fills : numbers of results, and what all their elements are
    starts : a `runtime.gpu.Start` for each kernel
    """

    library: Any
    device: int
    addresses: tuple[Callable[[Any], int], ...]
    made: tuple[Made, ...]
    scratch_bytes: int
    fills: tuple[tuple[int, float], ...]
    starts: tuple[Any, ...]

    def run(self, operands: Sequence[Any], stream: Any) -> list[Any]:
        """The results; the host does not wait for them."""
        library = self.library
        if stream is None and library.current_device() == self.device:
            return self.start(operands, library.current_stream())
        with library.on_device(self.device):
            if stream is None:
                return self.start(operands, library.current_stream())
            handle = stream_handle(stream)
            with library.on_stream(handle, self.device):
                return self.start(operands, handle)

    def start(self, operands: Sequence[Any], handle: int) -> list[Any]:
        """The same on the stream with this handle, which is the library's current one."""
        library, device = self.library, self.device
        memory = [address(x) for address, x in zip(self.addresses, operands, strict=True)]
        # Scratch is given back on return, and given out again on this stream alone: after the kernels that use it.
        base, _scratch = library.scratch(self.scratch_bytes) if self.scratch_bytes else (0, None)
        results = []
        for x in self.made:
            if x.offset is None:
                results.append(library.empty(x.shape, x.dtype, device))
                memory.append(library.address(results[-1]))
            else:
                memory.append(base + x.offset)
        for n, value in self.fills:
            results[n][...] = value
        for start in self.starts:
            start(handle, memory)
        return results


@dataclass(frozen=True)
class CopiesPlan:
    """A call on host memory that a GPU answers: the planner plans again, for the copies."""

    planner: Any
    settings: tuple[Any, ...]

    def run(self, operands: Sequence[Any], stream: Any) -> list[Any]:
        """The results, NumPy arrays; the host waits for them."""
        with contextlib.nullcontext() if stream is None else CUPY.on_stream(stream_handle(stream), None):
            copies, descriptions = described([to_gpu(x) for x in operands])
            return [to_host(x) for x in planned(self.planner, *self.settings, *descriptions).run(copies, None)]


Plan = HostPlan | GpuPlan | CopiesPlan


def make_plan(descriptions: Sequence[Any], results: Sequence[Array], steps: Sequence[Step]) -> HostPlan | GpuPlan:
    """The plan of a call, from its operands' descriptions and the outlines of its results and steps."""
    library, device, count = results[0].library, results[0].device, len(descriptions)
    shapes = {x.data.source - count: x.shape for x in results}
    assert list(shapes) == sorted(shapes)
    made, scratch_bytes = [], 0
    for n, (shape, dtype) in enumerate(library.made):
        if n in shapes:
            made.append(Made(shapes[n], dtype, None))
        else:
            made.append(Made(shape, dtype, scratch_bytes))
            scratch_bytes += round_up(prod(shape) * ITEMSIZE[dtype], APART)
    if device is None:
        return HostPlan(tuple(made), tuple(steps))
    from numba_flash.runtime.gpu import prepare  # cuda.core, which no call on the CPU path needs

    sources = [x.data.source for x in results]
    return GpuPlan(
        library=descriptions[0][0],
        device=device,
        addresses=tuple(no_address if x is None else x[0].address for x in descriptions),
        made=tuple(made),
        scratch_bytes=scratch_bytes,
        fills=tuple((sources.index(x.array.data.source), x.value) for x in steps if isinstance(x, Fill)),
        starts=tuple(prepare(x, device) for x in steps if isinstance(x, Launch) and x.grid),
    )


def no_address(operand: None) -> int:
    """Of an operand that is not given."""
    return 0


def outlined(descriptions: Sequence[Any]) -> list[Any]:
    """An outline for each description; what is none stays as it is."""
    library = Outlines(len(descriptions))
    return [library.of(n, x) if isinstance(x, tuple) else x for n, x in enumerate(descriptions)]


def described(operands: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """Operands as they are read, and their descriptions."""
    pairs = [describe(x) for x in operands]
    return [x for x, _ in pairs], [description for _, description in pairs]


def planned(planner: Any, *key: Any) -> Any:
    """A planner's plan: the one that it remembers, where it has met these arguments before."""
    try:
        return planner(*key)
    except TypeError as error:
        if not str(error).startswith("unhashable type"):  # a list for a tuple; or an array for a number, soon refused
            raise
    return planner.__wrapped__(*key)
