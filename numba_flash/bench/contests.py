"""The calls that solve a cell: our rungs through the public functions, the peers, and the check of their results."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cache, partial
from typing import Any

import numpy as np

import numba_flash
from numba_flash import flash_attention, flash_attention_backward, matmul, reference
from numba_flash.bench import formula
from numba_flash.bench.cells import FASTEST, SOFTMAX, SOFTMAX_ELEMENTS, Cell
from numba_flash.bench.checks import Check, check, to_host
from numba_flash.bench.formula import WIDE, Operands
from numba_flash.bench.measure import Call, Contest
from numba_flash.bench.peers import CUBLAS, CUPY, SHORT, TORCH_SOFTMAX, attention_peers, takes_part
from numba_flash.config import current_device
from numba_flash.ladder import FORWARD, MATMUL, Rung

CHECKED_ROWS = 256
CHECKED_BYTES = 2**31  # of the score matrix with which a result is checked


def contest(cell: Cell, rungs: Sequence[Rung], peers: Collection[str] = ()) -> Contest:
    """Everybody who takes part in a cell, on fresh random arrays; of the peers, those that match a pattern, if any."""
    if cell.operation == MATMUL:
        return matmul_contest(cell, rungs, peers)
    if cell.operation == SOFTMAX:
        return softmax_contest(cell, rungs, peers)
    return attention_contest(cell, rungs, peers)


def random(dtype: str, *shape: int) -> Any:
    """Normal numbers, the same for the same shape."""
    import cupy

    wide = cupy.random.default_rng(sum(shape)).standard_normal(shape, WIDE[dtype])
    return wide.astype(dtype, copy=False)


def calls(rungs: Sequence[Rung], function: Callable[..., Any], *operands: Any, **options: Any) -> dict[str, Call]:
    """A public function with each rung's name."""
    return {r.name: (lambda name=r.name: function(*operands, **options, kernel=name)) for r in rungs}  # type: ignore[misc]


def counts(cell: Cell, rungs: Sequence[Rung]) -> dict[str, tuple[int, int]]:
    """Each rung's operations, and the bytes of global memory that its threads read and write."""
    problem, device = cell.problem(), current_device(None)
    return {rung.name: (rung.flops(problem), rung.bytes(problem, device)) for rung in rungs if rung.on_gpu}


def attention_contest(cell: Cell, rungs: Sequence[Rung], peers: Collection[str]) -> Contest:
    """Self-attention of a batch."""
    assert cell.d is not None
    causal = bool(cell.causal)
    x = Operands(*random(cell.dtype, 4, cell.batch, cell.heads, cell.N, cell.d))
    entrants = list(attention_peers(cell, x, peers))
    compare = last_head_check(cell, x)
    if cell.operation == FORWARD:
        ours = calls(rungs, flash_attention, *x[1:], causal=causal)
        return Contest(ours, {peer.name: peer.forward for peer in entrants}, compare, counts(cell, rungs))

    @cache
    def saved() -> tuple[Any, Any]:
        return flash_attention(*x[1:], causal=causal, return_lse=True)

    def backward(kernel: str, deterministic: bool = False) -> Any:
        return flash_attention_backward(*x, *saved(), causal=causal, kernel=kernel, deterministic=deterministic)

    ours = calls(rungs, backward)
    if cell.who == FASTEST:
        ours |= {f"{r.name}, deterministic": partial(backward, r.name, deterministic=True) for r in rungs}
    theirs = {peer.name: peer.backward for peer in entrants if peer.backward}
    return Contest(ours, theirs, compare, counts(cell, rungs))


def last_head_check(cell: Cell, x: Operands) -> Callable[[Any], Check]:
    """Compares the last head of o, or of dq, dk and dv, with the exact one.

    That is the formula in float64; for float64 itself NumPy's, which errs independently of cuBLAS. What is allowed is
    the formula's error in the operands' dtype, with some of the ways of `numba_flash.testing.naive` to evaluate it,
    for several heads: for a lone one cuBLAS would split sums, and err less than usual.
    """
    forward, causal = cell.operation == FORWARD, bool(cell.causal)
    wide = WIDE[cell.dtype]
    heads = max(1, CHECKED_BYTES // (cell.N**2 * np.dtype(wide).itemsize))

    @cache
    def exact_and_naive() -> tuple[list[Any], list[Any]]:
        import cupy

        def results(x: Operands, stored: formula.Stored = formula.unchanged) -> list[Any]:
            if forward:
                return [formula.attention(cupy, x, causal, stored)]
            return list(formula.gradients(cupy, x, causal, stored))

        last = Operands(*(a[-1:, -1:] for a in x))
        if cell.dtype == "float64":
            exact = reference_results(Operands(*(to_host(a) for a in last)), forward, causal)
        else:
            exact = [to_host(a) for a in results(last.astype("float64"))]
        several = Operands(*(a[-1:, -heads:] for a in x)).astype(wide)
        ways: list[formula.Stored] = [formula.unchanged, formula.nudged]
        if cell.dtype in SHORT:
            ways.append(partial(formula.rounded, dtype=cell.dtype))
        naive = [[to_host(a[:, -1:].astype(cell.dtype)) for a in results(several, way)] for way in ways]
        return exact, [np.stack(each) for each in zip(*naive, strict=True)]

    def compare(results: Any) -> Check:
        found = [to_host(a[-1:, -1:]) for a in ((results,) if forward else results)]
        return check(found, *exact_and_naive(), cell.dtype)

    return compare


def reference_results(x: Operands, forward: bool, causal: bool) -> list[Any]:
    """The definition: o, or dq, dk and dv."""
    if forward:
        return [reference.attention(x.q, x.k, x.v, causal=causal)[0]]
    return list(reference.attention_vjp(*x, causal=causal))


def matmul_contest(cell: Cell, rungs: Sequence[Rung], peers: Collection[str]) -> Contest:
    """A product of two square matrices."""
    a, b = random(cell.dtype, 2, cell.N, cell.N)

    @cache
    def exact_and_naive() -> tuple[Any, Any]:
        rows = to_host(a[-CHECKED_ROWS:])
        return rows.astype(np.float64) @ to_host(b).astype(np.float64), to_host((a @ b)[-CHECKED_ROWS:])

    def compare(c: Any) -> Check:
        exact, naive = exact_and_naive()
        return check([to_host(c[-CHECKED_ROWS:])], [exact], [naive], cell.dtype)

    theirs: dict[str, Call] = {CUBLAS: lambda: a @ b} if takes_part(CUBLAS, peers) else {}
    return Contest(calls(rungs, matmul, a, b), theirs, compare, counts(cell, rungs))


def softmax_contest(cell: Cell, rungs: Sequence[Rung], peers: Collection[str]) -> Contest:
    """Rows of N numbers."""
    import cupy

    x, wide = random(cell.dtype, SOFTMAX_ELEMENTS // cell.N, cell.N), WIDE[cell.dtype]
    theirs: dict[str, Call] = {}
    if takes_part(CUPY, peers):
        theirs[CUPY] = lambda: formula.softmax(cupy, x.astype(wide, copy=False)).astype(cell.dtype, copy=False)
    if takes_part(TORCH_SOFTMAX, peers):
        import torch

        tensor = torch.from_dlpack(x)
        theirs[TORCH_SOFTMAX] = lambda: torch.softmax(tensor, dim=-1)

    @cache
    def exact_and_naive() -> tuple[Any, Any]:
        rows = x[-CHECKED_ROWS:]
        naive = formula.softmax(cupy, rows.astype(wide)).astype(cell.dtype)
        return reference.softmax(to_host(rows).astype(np.float64)), to_host(naive)

    def compare(p: Any) -> Check:
        exact, naive = exact_and_naive()
        return check([to_host(p[-CHECKED_ROWS:])], [exact], [naive], cell.dtype)

    return Contest(calls(rungs, numba_flash.softmax, x), theirs, compare, counts(cell, rungs))  # type: ignore[attr-defined]
