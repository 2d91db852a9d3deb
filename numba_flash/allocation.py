"""What a planned call asks of the library of its arrays each time: the current stream, and memory for what it makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from math import prod
from typing import Any, Protocol

from numba_flash.arrays import CUPY, ITEMSIZE, NUMPY_DTYPES, TORCH
from numba_flash.tiling import round_up

ALLOCATED = 256  # bytes: arrays in one allocation start on such multiples, as allocations of their own do
LITTLE = 8  # scratch that is so many times smaller than the first result lies behind it

Shapes = Sequence[tuple[Sequence[int], str]]  # with dtypes


def allocated_bytes(shape: Sequence[int], dtype: str) -> int:
    """What an array takes of an allocation that it shares."""
    return round_up(prod(shape) * ITEMSIZE[dtype], ALLOCATED)


# Results, their addresses and that of the scratch, what keeps the scratch, and the handle of the current stream.
Allocated = tuple[list[Any], list[int], Any, int]


class Allocation(Protocol):
    """Of results with these shapes and dtypes, and of so many bytes of scratch, on a device."""

    get_device: Callable[[], int]  # the thread's current one

    def __init__(self, results: Shapes, scratch: int, device: int) -> None: ...

    def allocate(self) -> Allocated:
        """On the current stream of the device, which is the current one; scratch is kept until kernels are started."""


class CupyAllocation:
    """From CuPy's pool.

    Scratch is given out again as soon as it is let go, to work on the same stream, which comes later; a little of it
    lies behind the first result and stays with that. What a graph captures is run again at other times: there every
    result keeps the scratch.
    """

    def __init__(self, results: Shapes, scratch: int, device: int) -> None:
        cupy = CUPY.cupy
        self.device, self.scratch = device, scratch
        self.get_device, self.get_stream = cupy.cuda.runtime.getDevice, cupy.cuda.get_current_stream
        self.ndarray, self.alloc = cupy.ndarray, cupy.cuda.alloc
        self.counts = [allocated_bytes(*x) for x in results]
        self.room = self.counts[0]
        self.little = scratch * LITTLE <= self.room
        self.results = [(tuple(shape), NUMPY_DTYPES[dtype], allocated_bytes(shape, dtype)) for shape, dtype in results]
        self.in_one = self.little and len(results) == 1
        self.in_graphs = bool(scratch) and not self.in_one
        if self.little:
            shape, dtype, count = self.results[0]
            self.results[0] = shape, dtype, count + scratch

    def allocate(self) -> Allocated:
        stream = self.get_stream(self.device)
        if self.in_graphs and stream.is_capturing():
            return self.together(stream.ptr)
        alloc, ndarray = self.alloc, self.ndarray
        made, addresses = [], []
        for shape, dtype, count in self.results:
            memory = alloc(count)
            made.append(ndarray(shape, dtype, memory))
            addresses.append(memory.ptr)
        if self.little:
            addresses.append(addresses[0] + self.room)
            return made, addresses, None, stream.ptr
        kept = alloc(self.scratch)
        addresses.append(kept.ptr)
        return made, addresses, kept, stream.ptr

    def together(self, stream: int) -> Allocated:
        """The same in one allocation."""
        begins = list(accumulate(self.counts, initial=0))
        memory = self.alloc(begins[-1] + self.scratch)
        made = [self.ndarray(*x[:2], memory + begin) for x, begin in zip(self.results, begins, strict=False)]
        return made, [memory.ptr + begin for begin in begins], None, stream


class TorchAllocation:
    """From torch's pool; a graph that torch captures has memory of its own, which no one else is given."""

    def __init__(self, results: Shapes, scratch: int, device: int) -> None:
        torch = TORCH.torch
        self.device, self.scratch, place = device, scratch, torch.device("cuda", device)
        wanted = [(tuple(shape), getattr(torch, dtype)) for shape, dtype in results]
        if scratch:
            wanted.append(((scratch,), torch.uint8))
        # torch.empty takes half its time to read shape, dtype and device: here they are those of one repeated element.
        self.models = [torch.empty(1, dtype=dtype, device=place).expand(shape) for shape, dtype in wanted]
        self.empty_like, self.contiguous = torch.empty_like, torch.contiguous_format
        self.get_device = torch.cuda.current_device
        # torch.cuda.current_stream costs a Python object. torch.compile and Triton take the handle from here, too.
        self.get_stream = torch._C._cuda_getCurrentRawStream

    def allocate(self) -> Allocated:
        made = [self.empty_like(model, memory_format=self.contiguous) for model in self.models]
        addresses, stream = [x.data_ptr() for x in made], self.get_stream(self.device)
        if self.scratch:
            return made[:-1], addresses, made[-1], stream
        return made, [*addresses, 0], None, stream


ALLOCATIONS: dict[str, type[Allocation]] = {CUPY.name: CupyAllocation, TORCH.name: TorchAllocation}
