"""attention_naive as the host sees it. The kernel is in numba_flash/kernels/attention_naive.py."""

from __future__ import annotations

from numba_flash.arrays import ITEMSIZE, Array, empty
from numba_flash.config import LANES, Device
from numba_flash.problem import AttentionProblem, Operands, visible_pairs
from numba_flash.rungs.arguments import plain_arguments, plain_reasons
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.tiling import cdiv
from numba_flash.traffic import Traffic

CONFIGS = [(4, LANES)]  # rows of P of a block, lanes of each; a thread of the products owns one element


def why_not(problem: AttentionProblem, device: Device) -> list[str]:
    """Why these kernels cannot solve the problem on the device; empty if they can."""
    ((rows, lanes),) = CONFIGS
    elements = problem.B * problem.Hq * problem.Nq * max(problem.Nk, problem.dv)
    return plain_reasons(problem, cdiv(elements, rows * lanes))


def launches(problem: AttentionProblem, device: Device, x: Operands, o: Array, lse: Array) -> list[Launch]:
    """The launches that write o (B, Hq, Nq, dv) and lse (B, Hq, Nq), both contiguous, and S, their scratch."""
    ((rows, lanes),) = CONFIGS
    threads, queries = rows * lanes, problem.B * problem.Hq * problem.Nq
    S = empty(x.q, (problem.B, problem.Hq, problem.Nq, problem.Nk), problem.real)
    sizes, band, scale = plain_arguments(problem)
    scores = Kernel("attention_naive", (problem.dtype, threads), threads, part="scores")
    softmax = Kernel("attention_naive", (problem.real, rows, lanes), threads, part="softmax")
    product = Kernel("attention_naive", (problem.dtype, threads), threads, part="product")
    inputs = (x.q, x.q.strides, x.k, x.k.strides)
    return [
        Launch(scores, cdiv(queries * problem.Nk, threads), (*inputs, Written(S), sizes, band, scale)),
        Launch(softmax, cdiv(queries, rows), (Written(S), Written(lse), sizes)),
        Launch(product, cdiv(queries * problem.dv, threads), (S, x.v, x.v.strides, Written(o), sizes, band)),
    ]


def traffic(p: AttentionProblem, device: Device) -> Traffic:
    """The card's Traffic in bytes, exact for all sizes."""
    stored, real, pairs = ITEMSIZE[p.dtype], ITEMSIZE[p.real], visible_pairs(p)
    rows = p.B * p.Hq * p.Nq
    scores = Traffic(pairs * 2 * p.d * stored, rows * p.Nk * real)
    softmax = Traffic(3 * rows * p.Nk * real, rows * (p.Nk + 1) * real)
    product = Traffic(pairs * p.dv * (real + stored), rows * p.dv * stored)
    return scores + softmax + product
