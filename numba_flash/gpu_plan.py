"""The plan of a call on a GPU: kernels that are loaded, with their parameters but for the addresses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from numba_flash.allocation import ALLOCATIONS, Allocation, CupyAllocation, Shapes, allocated_bytes
from numba_flash.arrays import stream_handle
from numba_flash.runtime import Launch
from numba_flash.runtime.gpu import Starts, on_device, prepare
from numba_flash.steps import Fill, Step


@dataclass(frozen=True)
class GpuPlan:
    """A call on a GPU.

    library, device : of the results
    memory : what makes them, and scratch
    fills : numbers of results, and what all their elements are
    starts : the launches, on the addresses of the operands, of the results and of the scratch
    """

    library: Any
    device: int
    memory: Allocation
    fills: tuple[tuple[int, float], ...]
    starts: Starts

    def run(self, operands: Sequence[Any], addresses: list[int], stream: Any) -> list[Any]:
        """The results; the host does not wait for them."""
        if stream is None and self.memory.get_device() == self.device:
            return self.start(addresses)
        with on_device(self.device):
            if stream is None:
                return self.start(addresses)
            with self.library.on_stream(stream_handle(stream), self.device):
                return self.start(addresses)

    def start(self, addresses: list[int]) -> list[Any]:
        """The same on the current stream of the device, which is the current one."""
        results, made, _kept, stream = self.memory.allocate()
        for n, value in self.fills:
            results[n][...] = value
        self.starts(stream, addresses + made)
        return results

    def shortcut(self) -> Callable[[list[int]], list[Any]]:
        """`run` on the current stream, with all that is known beforehand looked up."""
        memory, device, starts, get_device = self.memory, self.device, self.starts, self.memory.get_device
        if self.fills:
            return lambda addresses: self.run((), addresses, None)
        if isinstance(memory, CupyAllocation) and memory.in_one:
            return self.shortcut_in_one(memory)
        allocate = memory.allocate

        def run(addresses: list[int]) -> list[Any]:
            if get_device() != device:
                return self.run((), addresses, None)
            results, made, _kept, stream = allocate()
            starts(stream, addresses + made)
            return results

        return run

    def shortcut_in_one(self, memory: CupyAllocation) -> Callable[[list[int]], list[Any]]:
        """The same for one result of CuPy, with its scratch behind it: no call is made more often."""
        device, starts, get_device, get_stream = self.device, self.starts, memory.get_device, memory.get_stream
        ((shape, dtype, count),), room, alloc, ndarray = memory.results, memory.room, memory.alloc, memory.ndarray

        def run(addresses: list[int]) -> list[Any]:
            if get_device() != device:
                return self.run((), addresses, None)
            stream, made = get_stream(device), alloc(count)
            address = made.ptr
            starts(stream.ptr, [*addresses, address, address + room])
            return [ndarray(shape, dtype, made)]

        return run


def make_gpu_plan(
    descriptions: Sequence[Any], results: Shapes, scratch: Shapes, steps: Sequence[Step], device: int
) -> GpuPlan:
    """The plan from its operands' descriptions, what the call makes, and its steps on outlines."""
    library, count = descriptions[0][0], len(descriptions)
    *begins, scratch_bytes = accumulate([allocated_bytes(*x) for x in scratch], initial=0)
    launches = [x for x in steps if isinstance(x, Launch) and x.grid]
    return GpuPlan(
        library=library,
        device=device,
        memory=ALLOCATIONS[library.name](results, scratch_bytes, device),
        fills=tuple((x.array.data.source - count, x.value) for x in steps if isinstance(x, Fill)),
        starts=prepare(launches, device, count + len(results), begins),
    )
