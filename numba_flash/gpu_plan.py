"""The plan of a call on a GPU: kernels that are loaded, with their parameters but for the addresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from numba_flash.allocation import ALLOCATIONS, Allocation, Shapes, allocated_bytes
from numba_flash.arrays import stream_handle
from numba_flash.runtime import Launch
from numba_flash.runtime.gpu import Starts, on_device, prepare
from numba_flash.steps import Fill, Step


@dataclass(frozen=True)
class GpuPlan:
    """A call on a GPU.

    library : of the results
    memory : what makes them, and scratch
    fills : numbers of results, and what all their elements are
    starts : the launches, on the addresses of the operands, of the results and of the scratch
    """

    library: Any
    memory: Allocation
    fills: tuple[tuple[int, float], ...]
    starts: Starts

    def run(self, operands: Sequence[Any], addresses: list[int], stream: Any) -> list[Any]:
        """The results; the host does not wait for them."""
        memory = self.memory
        if stream is None and memory.get_device() == memory.device:
            return self.start(addresses, memory.stream())
        with on_device(memory.device):
            if stream is None:
                return self.start(addresses, memory.stream())
            handle = stream_handle(stream)
            with self.library.on_stream(handle, memory.device):
                return self.start(addresses, handle)

    def start(self, addresses: list[int], handle: int) -> list[Any]:
        """The same on the stream with this handle, which is the library's current one."""
        results, made, _kept = self.memory.allocate()
        for n, value in self.fills:
            results[n][...] = value
        self.starts(handle, addresses + made)
        return results


def make_gpu_plan(
    descriptions: Sequence[Any], results: Shapes, scratch: Shapes, steps: Sequence[Step], device: int
) -> GpuPlan:
    """The plan from its operands' descriptions, what the call makes, and its steps on outlines."""
    library, count = descriptions[0][0], len(descriptions)
    *begins, scratch_bytes = accumulate([allocated_bytes(*x) for x in scratch], initial=0)
    launches = [x for x in steps if isinstance(x, Launch) and x.grid]
    return GpuPlan(
        library=library,
        memory=ALLOCATIONS[library.name](results, scratch_bytes, device),
        fills=tuple((x.array.data.source - count, x.value) for x in steps if isinstance(x, Fill)),
        starts=prepare(launches, device, count + len(results), begins),
    )
