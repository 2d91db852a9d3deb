"""What one call costs the host: calls that nobody waits for, on a problem too small to hide them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from numba_flash import flash_attention, flash_attention_vjp, reference
from numba_flash.arrays import read
from numba_flash.bench.checks import Check, check, to_host
from numba_flash.bench.contests import random
from numba_flash.bench.formula import WIDE, Operands
from numba_flash.bench.peers import CUPY, KINDS, SDPA, SHORT, cupy_attention, missing, takes_part
from numba_flash.config import current_device
from numba_flash.ladder import FORWARD, fastest_first
from numba_flash.problem import Operands as ProblemOperands
from numba_flash.runtime import Launch, launch
from numba_flash.specimen import specimen
from numba_flash.testing import naive_attention, naive_gradients

B, H, N, D = 1, 4, 128, 64
HOST_DTYPES = ("float32", "bfloat16")
ONE, BOTH = "forward", "forward + backward"
OURS, BRIDGE = "numba_flash", "numba_flash.torch"
Clock = Callable[[Mapping[Any, Callable[[], Any]]], Mapping[Any, float]]  # as `timing.host_microseconds`


@dataclass(frozen=True)
class Job:
    """One call.

    arrays : the library whose arrays it takes
    passes : "forward", "forward + backward", or empty where it is no attention
    results : from what it returns to o, or to dq, dk and dv, each (B, H, N, d); None where there is nothing to check
    """

    what: str
    arrays: str
    dtype: str
    passes: str
    call: Callable[[], Any]
    results: Callable[[Any], Sequence[Any]] | None = None
    peer: bool = False


@dataclass(frozen=True)
class HostRow:
    """The cost of one job; `of_sdpa` is its time over torch SDPA's, and `refused` says why there is no time."""

    what: str
    arrays: str
    dtype: str
    passes: str
    peer: bool
    microseconds: float | None
    of_sdpa: float | None
    refused: str = ""

    @property
    def failed(self) -> bool:
        """Is it one of our calls, and without a time?"""
        return bool(self.refused) and not self.peer


def host_rows(jobs: Sequence[Job], compare: Callable[[Job, Any], Check], clock: Clock) -> list[HostRow]:
    """Check every job once, and time together those that are right."""
    refused: dict[Job, str] = {}
    for job in jobs:
        try:
            result = job.call()
            found = compare(job, result) if job.results else None
        except Exception as error:  # whatever a peer or a broken call raises: the others are timed all the same
            refused[job] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        if found is not None and not found.ok:
            refused[job] = f"wrong: error {found.error:.2g} > {found.allowed:.2g}"
    times = clock({job: job.call for job in jobs if job not in refused})
    sdpa = {(job.dtype, job.passes): time for job, time in times.items() if job.what == SDPA}
    rows = []
    for job in jobs:
        time, usual = times.get(job), sdpa.get((job.dtype, job.passes))
        ratio = None if time is None or usual is None or job.what == SDPA else time / usual
        rows.append(HostRow(job.what, job.arrays, job.dtype, job.passes, job.peer, time, ratio, refused.get(job, "")))
    return rows


def host_jobs(dtypes: Sequence[str], peers: Collection[str] = ()) -> list[Job]:
    """Every call whose cost is compared."""
    return [job for dtype in dtypes for job in [*cupy_jobs(dtype, peers), *torch_jobs(dtype, peers)]]


@cache
def operands(dtype: str) -> Operands:
    """CuPy arrays, which every library's arrays share their memory with."""
    return Operands(*random(dtype, 4, B, H, N, D))


def exact_check(job: Job, result: Any) -> Check:
    """Compare a job's results with the definition, by the tolerance rule."""
    assert job.results is not None
    return check([to_host(x) for x in job.results(result)], *exact_and_naive(job.dtype, job.passes), job.dtype)


@cache
def exact_and_naive(dtype: str, passes: str) -> tuple[Sequence[Any], Sequence[Any]]:
    """o, or dq, dk and dv, by the definition and by the formula."""
    x = [to_host(a) for a in operands(dtype)]
    if passes == ONE:
        return reference.attention(*x[1:])[:1], naive_attention(*x[1:])[:1]
    return reference.attention_vjp(*x), naive_gradients(*x)


def forward_and_backward(x: Operands) -> Any:
    """Our o and gradients."""
    o, pullback = flash_attention_vjp(*x[1:])
    return pullback(x.do)


def alone(result: Any) -> Sequence[Any]:
    """One result."""
    return [result]


def cupy_jobs(dtype: str, peers: Collection[str]) -> Iterator[Job]:
    """Calls on CuPy arrays; below them what they are made of: a launch and an allocation."""
    import cupy

    x = operands(dtype)
    yield Job(OURS, "CuPy", dtype, ONE, lambda: flash_attention(*x[1:]), alone)
    yield Job(OURS, "CuPy", dtype, BOTH, lambda: forward_and_backward(x), tuple)
    if takes_part(CUPY, peers):
        forward, backward = cupy_attention(x, dtype, causal=False)
        yield Job(CUPY, "CuPy", dtype, ONE, forward, alone, peer=True)
        yield Job(CUPY, "CuPy", dtype, BOTH, backward, tuple, True)
    bare = cache(lambda: bare_launch(x, dtype))  # when it is first called, so that an error is its row's own
    yield Job("runtime.launch, one kernel", "CuPy", dtype, "", lambda: launch(*bare()))
    yield Job("cupy.empty", "CuPy", dtype, "", lambda: cupy.empty((B, H, N, D), dtype), peer=True)


def bare_launch(x: Operands, dtype: str) -> tuple[Launch, int, int | None]:
    """The first launch of the fastest forward kernel, the stream and the device for it."""
    q, k, v = (read(a) for a in x[1:])
    o, lse = (read(a) for a in (x.q.copy(), x.q[..., 0].astype(WIDE[dtype])))
    problem, device = specimen(FORWARD, dtype, N=N, d=D, H=H, B=B, device=q.device), current_device(q.device)
    rung = next(r for r in fastest_first(FORWARD) if r.on_gpu and not r.why_not(problem, device))
    launches = rung.load().launches(problem, device, ProblemOperands(q, k, v), o, lse)
    return launches[0], 0, q.device  # the default stream, which is also CuPy's and torch's here


def torch_jobs(dtype: str, peers: Collection[str]) -> Iterator[Job]:
    """Calls on torch tensors; where there is a gradient, by autograd."""
    if missing("torch"):
        return
    import torch

    tensors = Operands(*(torch.from_dlpack(a) for a in operands(dtype)))
    yield Job(OURS, "torch", dtype, ONE, lambda: flash_attention(*tensors[1:]), alone)
    yield Job(OURS, "torch", dtype, BOTH, lambda: forward_and_backward(tensors), tuple)
    ours = late(lambda: import_module(BRIDGE).flash_attention)
    yield from autograd_jobs(BRIDGE, tensors, ours, dtype, peer=False)
    if takes_part(SDPA, peers):
        yield from autograd_jobs(SDPA, tensors, torch.nn.functional.scaled_dot_product_attention, dtype, peer=True)
    inside = Operands(*(a.transpose(1, 2).contiguous() for a in tensors))
    for kind in KINDS:
        if kind.heads_inside and dtype in SHORT and takes_part(kind.name, peers):
            theirs = late(lambda kind=kind: import_module(kind.module).flash_attn_func)  # type: ignore[misc]
            jobs = list(autograd_jobs(kind.name, inside, theirs, dtype, peer=True, heads_inside=True))
            yield from jobs if kind.backward else jobs[:1]


def late(load: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
    """A function that is imported when it is first called, so that only its own row suffers if it cannot be."""
    loaded = cache(load)
    return lambda *arguments: loaded()(*arguments)


def autograd_jobs(
    name: str, x: Operands, attention: Callable[..., Any], dtype: str, peer: bool, heads_inside: bool = False
) -> Iterator[Job]:
    """The forward pass of tensors without gradients, and both passes of tensors with them."""
    import torch

    leaves = [a.clone().requires_grad_() for a in x[1:]]

    def output(o: Any) -> Any:
        return o[0] if isinstance(o, tuple) else o

    def heads_outside(results: Sequence[Any]) -> Sequence[Any]:
        return [a.transpose(1, 2) if heads_inside else a for a in results]

    def both() -> Any:
        return torch.autograd.grad(output(attention(*leaves)), leaves, x.do)

    yield Job(name, "torch", dtype, ONE, lambda: attention(*x[1:]), lambda o: heads_outside([output(o)]), peer)
    yield Job(name, "torch", dtype, BOTH, both, heads_outside, peer)
