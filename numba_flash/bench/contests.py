"""The calls that solve a cell: our rungs through the public functions, the peers, and the check of their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

import numba_flash
from numba_flash import flash_attention, flash_attention_backward, matmul, reference
from numba_flash.bench.cells import BATCH, HIDDEN, SOFTMAX, SOFTMAX_ELEMENTS, Cell
from numba_flash.bench.checks import Check, check, to_host
from numba_flash.bench.measure import Call, Contest
from numba_flash.bench.peers import Operands, attention_peers
from numba_flash.demo import naive_attention, naive_gradients
from numba_flash.ladder import FORWARD, MATMUL, Rung

CHECKED_ROWS = 256
WIDE = {"float16": "float32", "float32": "float32", "float64": "float64"}  # of the formula's arithmetic


def contest(cell: Cell, rungs: Sequence[Rung], flex: bool = False) -> Contest:
    """Everybody who takes part in a cell, on fresh random arrays."""
    if cell.operation == MATMUL:
        return matmul_contest(cell, rungs)
    if cell.operation == SOFTMAX:
        return softmax_contest(cell, rungs)
    return attention_contest(cell, rungs, flex)


def random(cell: Cell, *shape: int) -> Any:
    """Normal numbers in the cell's dtype, the same for the same shape."""
    import cupy

    return cupy.random.default_rng(sum(shape)).standard_normal(shape, WIDE[cell.dtype]).astype(cell.dtype, copy=False)


def calls(rungs: Sequence[Rung], function: Callable[..., Any], *operands: Any, **options: Any) -> dict[str, Call]:
    """A public function with each rung's name."""
    return {r.name: (lambda name=r.name: function(*operands, **options, kernel=name)) for r in rungs}  # type: ignore[misc]


def attention_contest(cell: Cell, rungs: Sequence[Rung], flex: bool = False) -> Contest:
    """Self-attention of BATCH x HIDDEN/d heads."""
    assert cell.d is not None
    causal = bool(cell.causal)
    x = Operands(*random(cell, 4, BATCH, HIDDEN // cell.d, cell.N, cell.d))
    entrants = attention_peers(cell, x, flex)
    if cell.operation == FORWARD:
        peers = {peer.name: peer.forward for peer in entrants}
        return Contest(calls(rungs, flash_attention, *x[1:], causal=causal), peers, last_head_check(cell, x))
    peers = {peer.name: peer.backward for peer in entrants if peer.backward}

    @cache
    def saved() -> tuple[Any, Any]:
        return flash_attention(*x[1:], causal=causal, return_lse=True)

    def backward(kernel: str) -> Any:
        return flash_attention_backward(*x, *saved(), causal=causal, kernel=kernel)

    return Contest(calls(rungs, backward), peers, last_head_check(cell, x))


def last_head_check(cell: Cell, x: Operands) -> Callable[[Any], Check]:
    """Compares one whole head, the last one, whose offsets are the largest.

    The formula evaluates all heads of a batch entry: for a lone one cuBLAS would split sums, and err less than usual.
    """
    forward, causal = cell.operation == FORWARD, bool(cell.causal)

    @cache
    def exact_and_naive() -> tuple[Sequence[Any], Sequence[Any]]:
        import cupy

        host = [to_host(a[-1:, -1:]) for a in x]
        do, q, k, v = (a[-1:].astype(WIDE[cell.dtype]) for a in x)
        exact: Sequence[Any]
        naive: Sequence[Any]
        if forward:
            exact = reference.attention(*host[1:], causal=causal)[:1]
            naive = naive_attention(cupy, q, k, v, causal)[:1]
        else:
            exact = reference.attention_vjp(*host, causal=causal)
            naive = naive_gradients(cupy, do, q, k, v, causal)
        return exact, [to_host(a[:, -1:].astype(cell.dtype)) for a in naive]

    def compare(results: Any) -> Check:
        heads = [to_host(a[-1:, -1:]) for a in ((results,) if forward else results)]
        return check(heads, *exact_and_naive(), cell.dtype)

    return compare


def matmul_contest(cell: Cell, rungs: Sequence[Rung]) -> Contest:
    """A product of two square matrices."""
    a, b = random(cell, 2, cell.N, cell.N)

    @cache
    def exact_and_naive() -> tuple[Any, Any]:
        rows = to_host(a[-CHECKED_ROWS:])
        return rows.astype(np.float64) @ to_host(b).astype(np.float64), to_host((a @ b)[-CHECKED_ROWS:])

    def compare(c: Any) -> Check:
        exact, naive = exact_and_naive()
        return check([to_host(c[-CHECKED_ROWS:])], [exact], [naive], cell.dtype)

    return Contest(calls(rungs, matmul, a, b), {"cuBLAS": lambda: a @ b}, compare)


def softmax_contest(cell: Cell, rungs: Sequence[Rung]) -> Contest:
    """Rows of N numbers."""
    import cupy

    x = random(cell, SOFTMAX_ELEMENTS // cell.N, cell.N)
    peers: dict[str, Call] = {"CuPy formula": lambda: softmax_formula(cupy, x)}
    if find_spec("torch"):
        import torch

        tensor = torch.from_dlpack(x)
        peers["torch softmax"] = lambda: torch.softmax(tensor, dim=-1)

    @cache
    def exact_and_naive() -> tuple[Any, Any]:
        rows = x[-CHECKED_ROWS:]
        naive = softmax_formula(cupy, rows.astype(WIDE[cell.dtype])).astype(cell.dtype)
        return reference.softmax(to_host(rows).astype(np.float64)), to_host(naive)

    def compare(p: Any) -> Check:
        exact, naive = exact_and_naive()
        return check([to_host(p[-CHECKED_ROWS:])], [exact], [naive], cell.dtype)

    return Contest(calls(rungs, numba_flash.softmax, x), peers, compare)  # type: ignore[attr-defined]


def softmax_formula(xp: Any, x: Any) -> Any:
    """As one writes it."""
    e = xp.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
