"""The plan of a call on a GPU: kernels that are loaded, with their parameters but for the addresses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from numba_flash.arrays import ALLOCATED, ITEMSIZE, stream_handle
from numba_flash.runtime import Launch
from numba_flash.runtime.gpu import Start, is_current, on_device, prepare
from numba_flash.steps import Fill, Step
from numba_flash.tiling import round_up

Shapes = Sequence[tuple[tuple[int, ...], str]]  # with dtypes


@dataclass(frozen=True)
class GpuPlan:
    """A call on a GPU.

    library, device : of the results
    addresses : for each operand, its library's way to look up an address
    results : their shapes and dtypes
    scratch : where scratch arrays begin in an allocation of `scratch_bytes`
    fills : numbers of results, and what all their elements are
    """

    library: Any
    device: int
    addresses: tuple[Callable[[Any], int], ...]
    results: tuple[tuple[tuple[int, ...], str], ...]
    scratch: tuple[int, ...]
    scratch_bytes: int
    fills: tuple[tuple[int, float], ...]
    starts: tuple[Start, ...]

    def run(self, operands: Sequence[Any], stream: Any) -> list[Any]:
        """The results; the host does not wait for them."""
        library = self.library
        if stream is None and is_current(self.device):
            return self.start(operands, library.current_stream())
        with on_device(self.device):
            if stream is None:
                return self.start(operands, library.current_stream())
            handle = stream_handle(stream)
            with library.on_stream(handle, self.device):
                return self.start(operands, handle)

    def start(self, operands: Sequence[Any], handle: int) -> list[Any]:
        """The same on the stream with this handle, which is the library's current one."""
        library = self.library
        memory = [address(x) for address, x in zip(self.addresses, operands, strict=True)]
        results, scratch, _kept = library.allocate(self.results, self.scratch_bytes, self.device)
        memory += map(library.address, results)
        memory += [scratch + offset for offset in self.scratch]
        for n, value in self.fills:
            results[n][...] = value
        for start in self.starts:
            start(handle, memory)
        return results


def make_gpu_plan(
    descriptions: Sequence[Any], results: Shapes, scratch: Shapes, steps: Sequence[Step], device: int
) -> GpuPlan:
    """The plan from its operands' descriptions, what the call makes, and its steps on outlines."""
    sizes = [round_up(prod(shape) * ITEMSIZE[dtype], ALLOCATED) for shape, dtype in scratch]
    return GpuPlan(
        library=descriptions[0][0],
        device=device,
        addresses=tuple(no_address if x is None else x[0].address for x in descriptions),
        results=tuple(results),
        scratch=tuple(sum(sizes[:n]) for n in range(len(sizes))),
        scratch_bytes=sum(sizes),
        fills=tuple((x.array.data.source - len(descriptions), x.value) for x in steps if isinstance(x, Fill)),
        starts=tuple(prepare(x, device) for x in steps if isinstance(x, Launch) and x.grid),
    )


def no_address(operand: None) -> int:
    """Of an operand that is not given."""
    return 0
