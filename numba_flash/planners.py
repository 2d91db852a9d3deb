"""How each operation is planned: check the call, choose a rung, list the results and the steps that make them.

A planner sees descriptions of the operands, never their memory. It remembers its plans, which depend on nothing but
its arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from numba_flash import reference
from numba_flash.arrays import Array, empty, gpu_count
from numba_flash.config import current_device
from numba_flash.ladder import BACKWARD, FORWARD, MATMUL, SOFTMAX, Rung, check_kernel, choose
from numba_flash.matmul_problem import matmul_request
from numba_flash.plan import REMEMBERED, CopiesPlan, Plan, make_plan, outlined
from numba_flash.problem import Reasons, attention_request, merge_request
from numba_flash.rungs.passes import merge as merge_pass
from numba_flash.shortcut import SHORTCUTS
from numba_flash.simulator import SIMULATED
from numba_flash.softmax_problem import softmax_request
from numba_flash.steps import Fill, HostCall, Step

remembered = lru_cache(maxsize=REMEMBERED, typed=True)  # typed: True may be legal where 1 is not


@remembered
def plan_attention(
    descriptions: tuple[Any, ...], kernel: Any, complaint: str, return_lse: bool, causal: Any,
    q_offset: Any = None, window: Any = None, scale: Any = None, softcap: Any = None, score_mod: Any = None,
    mask_mod: Any = None,
) -> Plan:  # fmt: skip
    """Of flash_attention; descriptions of q, k, v, and of slopes, bias and mask if any is given."""
    q, k, v, slopes, bias, mask = outlined(descriptions, 6)
    request = attention_request(
        reasons_of(FORWARD, kernel, complaint), q, k, v, causal=causal, q_offset=q_offset, window=window, scale=scale,
        softcap=softcap, alibi_slopes=slopes, bias=bias, mask=mask, score_mod=score_mod, mask_mod=mask_mod,
    )  # fmt: skip
    rung = choose(FORWARD, kernel, [problem for problem, _ in request.problems])
    if runs_on_copies(rung, request.q):
        options = (causal, q_offset, window, scale, softcap, score_mod, mask_mod)
        return CopiesPlan(plan_attention, (rung.name, "", return_lse, *options))
    shapes = request.shapes
    o, lse = empty(request.q, shapes["o"], request.q.dtype), empty(request.q, shapes["lse"], request.real)
    results = [o, lse] if return_lse else [o]
    if request.nothing_seen:
        fills = [Fill(o, 0), Fill(lse, -np.inf)]
        return make_plan(descriptions, results, fills[: len(results)])
    parts = zip(
        split(o, [(p.B, p.Hq, p.Nq, p.dv) for p, _ in request.problems]),
        split(lse, [(p.B, p.Hq, p.Nq) for p, _ in request.problems]),
        strict=True,
    )
    return make_plan(descriptions, results, steps_of(rung, request.problems, parts))


@remembered
def plan_backward(
    descriptions: tuple[Any, ...], kernel: Any, complaint: str, deterministic: Any, causal: Any,
    q_offset: Any = None, window: Any = None, scale: Any = None, softcap: Any = None, score_mod: Any = None,
    mask_mod: Any = None,
) -> Plan:  # fmt: skip
    """Of flash_attention_backward; descriptions of q, k, v, do, o, lse, and of dlse, slopes, bias, mask if given."""
    q, k, v, do, o, lse, dlse, slopes, bias, mask = outlined(descriptions, 10)
    request = attention_request(
        reasons_of(BACKWARD, kernel, complaint), q, k, v, causal=causal, q_offset=q_offset, window=window, scale=scale,
        softcap=softcap, alibi_slopes=slopes, bias=bias, mask=mask, score_mod=score_mod, mask_mod=mask_mod,
        backward={"do": do, "o": o, "lse": lse, "dlse": dlse}, deterministic=deterministic,
    )  # fmt: skip
    rung = choose(BACKWARD, kernel, [problem for problem, _ in request.problems])
    if runs_on_copies(rung, request.q):
        options = (causal, q_offset, window, scale, softcap, score_mod, mask_mod)
        return CopiesPlan(plan_backward, (rung.name, "", deterministic, *options))
    gradients = [empty(request.q, request.shapes[key], request.q.dtype) for key in ("q", "k", "v")]
    if request.nothing_seen:
        return make_plan(descriptions, gradients, [Fill(x, 0) for x in gradients])
    shapes = [[x.q.shape, x.k.shape, x.v.shape] for _, x in request.problems]
    parts = zip(*(split(x, of) for x, of in zip(gradients, zip(*shapes, strict=True), strict=True)), strict=True)
    return make_plan(descriptions, gradients, steps_of(rung, request.problems, parts))


@remembered
def plan_merge(descriptions: tuple[Any, ...], complaint: str) -> Plan:
    """Of merge; descriptions of o1, lse1, o2 and lse2."""
    o1, lse1, o2, lse2 = outlined(descriptions, 4)
    request = merge_request(reasons_of("merge", "auto", complaint), o1, lse1, o2, lse2)
    first, steps = request.o1, list[Step]()
    o, lse = empty(first, request.o_shape, first.dtype), empty(first, request.lse_shape, request.real)
    parts = (split(x, [group[n].shape for group in request.groups]) for n, x in enumerate((o, lse)))
    for (x1, l1, x2, l2), o_part, lse_part in zip(request.groups, *parts, strict=True):
        if first.device is None:
            steps.append(HostCall(merge_on_host, (x1, l1, x2, l2, o_part, lse_part)))
        else:
            steps += merge_pass.launches(x1, l1, x2, l2, o_part, lse_part)
    return make_plan(descriptions, [o, lse], steps)


def merge_on_host(o1: Array, lse1: Array, o2: Array, lse2: Array, o: Array, lse: Array) -> None:
    """Write o and lse with NumPy."""
    o.data[...], lse.data[...] = reference.merge(o1.data, lse1.data, o2.data, lse2.data)


@remembered
def plan_softmax(descriptions: tuple[Any, ...], kernel: Any, complaint: str) -> Plan:
    """Of softmax."""
    request = softmax_request(reasons_of(SOFTMAX, kernel, complaint), *outlined(descriptions, 1))
    rung = choose(SOFTMAX, kernel, [problem for problem, _ in request.problems])
    if runs_on_copies(rung, request.x):
        return CopiesPlan(plan_softmax, (rung.name, ""))
    y = empty(request.x, request.x.shape, request.x.dtype)
    parts = zip(split(y, [(p.B, p.M, p.N) for p, _ in request.problems]))
    return make_plan(descriptions, [y], steps_of(rung, request.problems, parts))


@remembered
def plan_matmul(descriptions: tuple[Any, ...], kernel: Any, complaint: str, out_dtype: Any) -> Plan:
    """Of matmul; descriptions of a and b."""
    a, b = outlined(descriptions, 2)
    request = matmul_request(reasons_of(MATMUL, kernel, complaint), a, b, out_dtype)
    problems = [(problem, (x, y)) for problem, x, y in request.problems]
    rung = choose(MATMUL, kernel, [problem for problem, _ in problems])
    if runs_on_copies(rung, request.a):
        return CopiesPlan(plan_matmul, (rung.name, "", out_dtype))
    c = empty(request.a, request.product_shape, request.out_dtype)
    parts = zip(split(c, [(p.B, p.M, p.N) for p, _ in problems]))
    return make_plan(descriptions, [c.reshape(request.shape)], steps_of(rung, problems, parts))


def forget_plans() -> None:
    """Plan every call anew: for whoever changes what plans are made from, such as a table of tile sizes."""
    for planner in (plan_attention, plan_backward, plan_merge, plan_softmax, plan_matmul):
        planner.cache_clear()
    SHORTCUTS.clear()


def reasons_of(operation: str, kernel: Any, complaint: str) -> Reasons:
    """What is wrong with a call, as far as its kernel and stream tell."""
    reasons = Reasons(operation)
    check_kernel(reasons, operation, kernel)
    if complaint:
        reasons.add(complaint, TypeError)
    return reasons


def runs_on_copies(rung: Rung, first: Array) -> bool:
    """Do the operands lie in host memory, and the chosen rung runs on a real GPU?"""
    return rung.on_gpu and not SIMULATED and first.device is None and gpu_count() > 0


def steps_of(rung: Rung, problems: Sequence[tuple[Any, Any]], parts: Iterable[Sequence[Array]]) -> list[Step]:
    """What a rung does to solve each problem, whose results are contiguous."""
    module, steps = rung.load(), []
    for (problem, operands), results in zip(problems, parts, strict=True):
        if rung.on_gpu:
            steps += module.launches(problem, current_device(problem.device), operands, *results)
        else:
            steps.append(HostCall(module.run, (problem, operands, *results)))
    return steps


def split(x: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """A contiguous result as parts, one for each group of operands; all shapes are the same."""
    if not shapes:
        return []
    parts = x.reshape((len(shapes), *shapes[0]))
    return [parts[n] for n in range(len(shapes))]
