"""What a call does, but for the addresses of its arrays: made once for all calls that look alike, then only run.

A planner checks a call, chooses its rung and lists its steps, all on outlines (`numba_flash.outline`). Its plan makes
the results, fills in the addresses and starts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

from numba_flash.arrays import CUPY, NUMPY, Array, describe, stream_handle, to_gpu, to_host, wrap
from numba_flash.outline import Outline, Outlines
from numba_flash.problem import Operands
from numba_flash.runtime import Launch, Written, launch
from numba_flash.steps import Fill, Step

REMEMBERED = 1024  # plans of each operation; the ones used longest ago are forgotten first


class Plan(Protocol):
    """What planners make."""

    def run(self, operands: Sequence[Any], addresses: list[int], stream: Any) -> list[Any]:
        """The call's results, arrays of one of our libraries."""


@dataclass(frozen=True)
class HostPlan:
    """A call on host memory, for the CPU path or the simulator: shapes and dtypes of what it makes, and its steps."""

    results: tuple[tuple[tuple[int, ...], str], ...]
    scratch: tuple[tuple[tuple[int, ...], str], ...]
    steps: tuple[Step, ...]

    def run(self, operands: Sequence[Any], addresses: list[int], stream: Any) -> list[Any]:
        """The results, NumPy arrays."""
        made = [NUMPY.empty(shape, dtype, None) for shape, dtype in (*self.results, *self.scratch)]
        memory = [*operands, *made]
        for step in self.steps:
            if isinstance(step, Fill):
                bound(step.array, memory).fill(step.value)
            elif isinstance(step, Launch):
                launch(replace(step, args=bound(step.args, memory)))
            else:
                step.function(*bound(step.args, memory))
        return made[: len(self.results)]


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
class CopiesPlan:
    """A call on host memory that a GPU answers: the planner plans again, for the copies."""

    planner: Any
    settings: tuple[Any, ...]

    def run(self, operands: Sequence[Any], addresses: list[int], stream: Any) -> list[Any]:
        """The results, NumPy arrays; the host waits for them."""
        with contextlib.nullcontext() if stream is None else CUPY.on_stream(stream_handle(stream), None):
            return [to_host(x) for x in answer(self.planner, self.settings, [to_gpu(x) for x in operands], None)]


def make_plan(descriptions: Sequence[Any], results: Sequence[Array], steps: Sequence[Step]) -> Plan:
    """The plan of a call, from its operands' descriptions and the outlines of its results and steps.

    The results are the first arrays that the call makes, in order; the others are scratch.
    """
    library, device, count = results[0].library, results[0].device, len(results)
    assert [x.data.source for x in results] == [len(descriptions) + n for n in range(count)]
    returned = tuple((x.shape, x.dtype) for x in results)
    scratch = library.made[count:]
    if device is None:
        return HostPlan(returned, tuple(scratch), tuple(steps))
    from numba_flash.gpu_plan import make_gpu_plan  # cuda.core, which no call on the CPU path needs

    return make_gpu_plan(descriptions, returned, scratch, steps, device)


def outlined(descriptions: Sequence[Any], count: int) -> list[Any]:
    """An outline for each description, None where there are fewer than `count`; what is none stays as it is."""
    library = Outlines(len(descriptions))
    outlines = [library.of(n, x) if isinstance(x, tuple) else x for n, x in enumerate(descriptions)]
    return outlines + [None] * (count - len(outlines))


def answer(planner: Any, settings: tuple[Any, ...], operands: Sequence[Any], stream: Any) -> list[Any]:
    """What every call does: describe the operands, find the plan, run it. The results are arrays of our libraries."""
    arrays, addresses, descriptions = describe(operands)
    return planned(planner, settings, descriptions).run(arrays, addresses, stream)


def planned(planner: Any, settings: tuple[Any, ...], descriptions: tuple[Any, ...]) -> Any:
    """A planner's plan: the one that it remembers, where it has met these arguments before."""
    try:
        return planner(descriptions, *settings)
    except TypeError as error:
        if not str(error).startswith("unhashable type"):  # a list for a tuple; or an array for a number, soon refused
            raise
    return planner.__wrapped__(descriptions, *settings)
