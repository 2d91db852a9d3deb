"""Every kernel compiled without a GPU, and the rules that machine code has to keep.

A rule is broken by float64 arithmetic in a kernel of other numbers, by an array or a register (a spill) in local
memory, which is slow global memory, and by code that does not compile.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numba_flash.compilers import check_compiler, on_all_cores
from numba_flash.config import Device, device_of_arch
from numba_flash.ladder import BACKWARD, FORWARD, LADDER, MATMUL
from numba_flash.problem import FLOATS, AttentionProblem, Operands
from numba_flash.rungs.arguments import WIDTHS
from numba_flash.rungs.passes import delta, merge
from numba_flash.runtime import Launch, signature
from numba_flash.runtime.cache import Binary
from numba_flash.specimen import ATTENTION, EVERY_OPTION, specimen, specimen_launches, zeros

MORE_WIDTHS = (96, 192)  # head dimensions that only some rungs have kernels of their own for
DEVICES = {arch: device_of_arch(arch) for arch in ("sm_75", "sm_80", "sm_86", "sm_90")}
KIN = {"sm_86": "sm_80"}  # devices for which only those kernels are listed that their kin does not have: smaller tiles
USUAL_D = 64  # the head dimension that kernels which do not depend on it are listed with


@dataclass(frozen=True)
class Variant:
    """One kernel to compile: launch number `launch` of those with which a rung, or a pass, solves a problem."""

    source: str
    kernel: str
    arch: str
    problem: Any
    launch: int

    @property
    def d(self) -> int:
        """The head dimension; where there is none, the usual one, so that choosing it leaves nothing out."""
        return getattr(self.problem, "d", USUAL_D)

    @property
    def vector(self) -> bool:
        """Does it read four elements at a time?"""
        return getattr(self.problem, "vector", False)

    @property
    def options(self) -> bool:
        """Is it the kernel with every score option?"""
        return getattr(self.problem, "softcap", None) is not None

    @property
    def usual(self) -> bool:
        """Is it for calls without options, on rows that are read 16 bytes at a time?"""
        p = self.problem
        unusual = self.options or getattr(p, "scale", 1) == 0 or getattr(p, "deterministic", False)
        return getattr(p, "vector", True) and not unusual

    def matches(self, only: str, arch: str, dtype: str, dim: int, usual: bool) -> bool:
        """Is `only` a part of its or its rung's name, and are the others its own, or empty or 0?"""
        named = only in self.source or only in self.kernel
        own = arch in (self.arch, "") and dtype in (self.problem.dtype, "") and dim in (self.d, 0)
        return named and own and self.usual >= usual


@dataclass(frozen=True)
class Compiled:
    """What became of a variant: a block's threads and shared memory, what it uses, and the rules that it breaks."""

    variant: Variant
    threads: int
    shared_bytes: int
    usage: Binary | None
    broken: tuple[str, ...]


def merge_launches(p: AttentionProblem) -> list[Launch]:
    """The launches that merge two results of one head."""
    o, lse = zeros((1, p.Nq, p.dv), p.dtype), zeros((1, p.Nq), p.real)
    return merge.launches(o, lse, o, lse, o, lse)


def delta_launches(p: AttentionProblem) -> list[Launch]:
    """The launches that make delta with a gradient of LSE, which no problem tells of."""
    o, lse = zeros((p.B, p.Hq, p.Nq, p.dv), p.dtype), zeros((p.B, p.Hq, p.Nq), p.real)
    return delta.launches(p, Operands(o, o, o, do=o, o=o, dlse=lse), lse)


PASSES: dict[str, Callable[[AttentionProblem], list[Launch]]] = {"delta": delta_launches, "merge": merge_launches}


def launches_of(source: str, problem: Any, device: Device) -> list[Launch]:
    """How a rung or a pass solves a problem; no launches where it cannot on such a device."""
    if source in PASSES:
        return PASSES[source](problem)
    (rung,) = (rung for rung in LADDER if rung.name == source)
    return [] if rung.why_not(problem, device) else specimen_launches(rung, problem, device)


def problems(operation: str) -> Iterator[Any]:
    """One problem for each kernel that an operation's rungs choose among."""
    for problem in plain_problems(operation):
        yield problem
        if operation == BACKWARD:
            yield replace(problem, deterministic=True)


def plain_problems(operation: str) -> Iterator[Any]:
    """Every dtype, head dimension and kind of loads, of attention with no score option and with all of them."""
    attention = operation in ATTENTION
    dims = (USUAL_D, *(d for d in (*WIDTHS, *MORE_WIDTHS) if d != USUAL_D)) if attention else (USUAL_D,)
    options: tuple[dict[str, Any], ...] = ({}, {"scale": 0.0}, EVERY_OPTION) if attention else ({},)
    for dtype, d, more in itertools.product(FLOATS, dims, options):
        problem = specimen(operation, dtype, d=d, **more)
        yield problem
        if hasattr(problem, "vector"):
            yield replace(problem, vector=False)
        if attention and problem.real != dtype:
            yield from (replace(problem, d=d - less, dv=d - less) for less in (4, 3))  # rows that end inside 16 bytes
        if attention and problem.real != dtype and not more:  # larger tiles; work by a counter
            yield replace(problem, Nq=768, Nk=768, last=768)
            yield replace(problem, B=64, Nq=512, Nk=512, last=0)
        if operation == MATMUL and problem.real != dtype:
            yield replace(problem, out_dtype=problem.real)
            yield replace(problem, K=problem.K + 4)


def variants() -> Iterator[Variant]:
    """Every kernel of every rung and pass, for every architecture that it is for, once."""
    sources = [(rung.name, rung.operation, rung.archs) for rung in LADDER if rung.on_gpu]
    sources += [(name, FORWARD, tuple(DEVICES)) for name in PASSES]
    seen = set()
    for source, operation, archs in sources:
        listed = [arch for arch in DEVICES if KIN.get(arch, arch) in archs]
        for arch, problem in itertools.product(listed, list(problems(operation))):
            for n, launch in enumerate(launches_of(source, problem, DEVICES[arch])):
                key = KIN.get(arch, arch), launch.kernel, signature(launch.args)
                if key not in seen:
                    seen.add(key)
                    yield Variant(source, launch.kernel.name, arch, problem, n)


def compile_variant(variant: Variant) -> Compiled:
    """Compile one kernel to machine code and look at it."""
    device = DEVICES[variant.arch]
    launch = launches_of(variant.source, variant.problem, device)[variant.launch]
    usage, broken = inspect_launch(launch, variant)
    shared_bytes = launch.kernel.shared_bytes + (usage.shared_bytes if usage else 0)
    return Compiled(variant, launch.kernel.threads, shared_bytes, usage, tuple(broken))


def inspect_launch(launch: Launch, variant: Variant) -> tuple[Binary | None, list[str]]:
    """What a launch's kernel uses, and the rules that it breaks."""
    from numba_flash.runtime.compile import link, to_ltoir, to_ptx  # numba.cuda, half a second to import

    p, arch = variant.problem, DEVICES[variant.arch].arch
    try:
        ltoir = to_ltoir(launch.kernel, signature(launch.args), arch)
        ptx, usage = to_ptx(ltoir, arch), link(ltoir, arch)
    except Exception as error:  # numba's errors share no other class
        return None, [f"does not compile: {error}"]
    broken = []
    doubles = len(re.findall(r"\.f64\b", ptx))
    if doubles and p.dtype != "float64":
        broken.append(f"{doubles} .f64 in a {p.dtype} kernel")
    if re.search(r"\.local\b", ptx):
        broken.append("an array in local memory")
    if spills := max(usage.spilled_bytes, usage.reloaded_bytes):
        broken.append(f"{spills} bytes spilled")
    if usage.serialized:
        broken.append(f"products of warpgroups wait for one another ({usage.serialized} warnings)")
    return usage, broken


def compile_all(chosen: Sequence[Variant], done: Callable[[], None] = lambda: None) -> list[Compiled]:
    """Compile variants on all cores, in their order; `done` is called after each.

    Raises
    ------
    RuntimeError
        As `check_compiler`.
    """
    check_compiler()
    return on_all_cores(compile_variant, [(variant,) for variant in chosen], done)
