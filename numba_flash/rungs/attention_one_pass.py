"""attention_one_pass as the host sees it. The kernel is in numba_flash/kernels/attention_one_pass.py."""

from __future__ import annotations

from numba_flash.arrays import ITEMSIZE, Array
from numba_flash.config import LANES, Device
from numba_flash.problem import AttentionProblem, Operands, visible_pairs
from numba_flash.rungs.arguments import padded_width, plain_arguments, plain_reasons
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.tiling import cdiv
from numba_flash.traffic import Traffic

CONFIGS = [(4, LANES)]  # queries of a block, lanes of each


def why_not(problem: AttentionProblem, device: Device) -> list[str]:
    """Why this kernel cannot solve the problem on the device; empty if it can."""
    ((rows, _),) = CONFIGS
    return plain_reasons(problem, cdiv(problem.B * problem.Hq * problem.Nq, rows))


def launches(problem: AttentionProblem, device: Device, x: Operands, o: Array, lse: Array) -> list[Launch]:
    """The launch that writes o (B, Hq, Nq, dv) and lse (B, Hq, Nq), both contiguous."""
    ((rows, lanes),) = CONFIGS
    widths = padded_width(problem.d), padded_width(problem.dv)
    kernel = Kernel("attention_one_pass", (problem.dtype, *widths, rows, lanes), lanes * rows)
    inputs = (x.q, x.q.strides, x.k, x.k.strides, x.v, x.v.strides)
    grid = cdiv(problem.B * problem.Hq * problem.Nq, rows)
    return [Launch(kernel, grid, (*inputs, Written(o), Written(lse), *plain_arguments(problem)))]


def traffic(p: AttentionProblem, device: Device) -> Traffic:
    """The card's Traffic in bytes, exact for all sizes."""
    stored, real, rows = ITEMSIZE[p.dtype], ITEMSIZE[p.real], p.B * p.Hq * p.Nq
    return Traffic((rows * p.d + visible_pairs(p) * (p.d + p.dv)) * stored, rows * (p.dv * stored + real))
