"""Attention and matmul of this package beside CuPy's formula, cuBLAS and torch's efficient attention."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from numba_flash import flash_attention, flash_attention_backward, matmul, reference
from numba_flash.bench.timing import alternate
from numba_flash.demo import naive_attention, naive_gradients

BATCH, HIDDEN = 4, 1024
CHECKED_ROWS = 256
ALLOWED_ERROR = {"float32": 2e-6, "float64": 1e-14}  # relative, in the Frobenius norm


@dataclass(frozen=True)
class Row:
    """One timed cell: what ran, its time, its rate by the papers' count of operations, and its error."""

    what: str
    dtype: str
    d: int
    N: int
    causal: bool
    provider: str
    milliseconds: float
    tflops: float
    relative_error: float


def attention_rows(d: int, N: int, causal: bool, dtype: str = "float32") -> Iterator[Row]:
    """Forward and backward of every provider on the same arrays; a provider with a red check is an error."""
    import cupy as cp

    H = HIDDEN // d
    rng = cp.random.default_rng(0)
    q, k, v, do = (rng.standard_normal((BATCH, H, N, d), dtype) for _ in range(4))
    o, lse = flash_attention(q, k, v, causal=causal, kernel="flash2", return_lse=True)
    forward: dict[str, Callable[[], Any]] = {
        "numba_flash flash2": lambda: flash_attention(q, k, v, causal=causal, kernel="flash2"),
        "cupy formula": lambda: naive_attention(cp, q, k, v, causal)[0],
    }
    backward: dict[str, Callable[[], Any]] = {
        "numba_flash flash2": lambda: flash_attention_backward(do, q, k, v, o, lse, causal=causal, kernel="flash2"),
        "cupy formula": lambda: naive_gradients(cp, do, q, k, v, causal),
    }
    if dtype == "float32" and importlib.util.find_spec("torch"):
        forward["torch efficient"], backward["torch efficient"] = efficient_attention(do, q, k, v, causal)
    host = [cp.asnumpy(x[:1, :1]) for x in (do, q, k, v)]
    expected = reference.attention(*host[1:], causal=causal)[0]
    gradients = reference.attention_vjp(*host, causal=causal)
    flops = 4 * BATCH * H * N * N * d / (2 if causal else 1)
    errors = {name: relative_error(job(), expected) for name, job in forward.items()}
    for name, milliseconds in check_and_time(forward, errors, dtype).items():
        yield Row("forward", dtype, d, N, causal, name, milliseconds, flops / milliseconds / 1e9, errors[name])
    errors = {name: worst_error(job(), gradients) for name, job in backward.items()}
    for name, milliseconds in check_and_time(backward, errors, dtype).items():
        yield Row("backward", dtype, d, N, causal, name, milliseconds, 2.5 * flops / milliseconds / 1e9, errors[name])


def matmul_rows(n: int) -> Iterator[Row]:
    """A float32 product of n x n matrices by every rung and cuBLAS."""
    import cupy as cp

    rng = cp.random.default_rng(0)
    a, b = (rng.standard_normal((n, n), "float32") for _ in range(2))
    jobs: dict[str, Callable[[], Any]] = {
        "numba_flash matmul_registers": lambda: matmul(a, b, kernel="matmul_registers"),
        "numba_flash matmul_tiled": lambda: matmul(a, b, kernel="matmul_tiled"),
        "cublas": lambda: a @ b,
    }
    expected = cp.asnumpy(a[:CHECKED_ROWS]).astype(np.float64) @ cp.asnumpy(b).astype(np.float64)
    errors = {name: norm_error(cp.asnumpy(job()[:CHECKED_ROWS]), expected) for name, job in jobs.items()}
    for name, milliseconds in check_and_time(jobs, errors, "float32").items():
        yield Row("matmul", "float32", n, n, False, name, milliseconds, 2 * n**3 / milliseconds / 1e9, errors[name])


def check_and_time(jobs: dict[str, Callable[[], Any]], errors: dict[str, float], dtype: str) -> dict[str, float]:
    """The jobs' times, once every error is within what is allowed."""
    red = {name: error for name, error in errors.items() if not error <= ALLOWED_ERROR[dtype]}
    if red:
        raise RuntimeError(f"no time for wrong results: relative errors {red}, allowed {ALLOWED_ERROR[dtype]}")
    return alternate(jobs)


def efficient_attention(do: Any, q: Any, k: Any, v: Any, causal: bool) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """torch's memory-efficient attention, forward and backward, on the same memory."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    tdo, tq, tk, tv = (torch.from_dlpack(x) for x in (do, q, k, v))
    leaves = [x.clone().requires_grad_() for x in (tq, tk, tv)]

    def attention(q: Any, k: Any, v: Any) -> Any:
        with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
            return scaled_dot_product_attention(q, k, v, is_causal=causal)

    o = attention(*leaves)
    return lambda: attention(tq, tk, tv), lambda: torch.autograd.grad(o, leaves, tdo, retain_graph=True)


def first_head(x: Any) -> np.ndarray:
    """The first head of the first batch entry, in host memory."""
    head = x[:1, :1]
    return head.get() if hasattr(head, "get") else head.detach().cpu().numpy()


def norm_error(x: np.ndarray, ref: np.ndarray) -> float:
    """||x - ref|| / ||ref||."""
    return float(np.linalg.norm(x - ref) / np.linalg.norm(ref))


def relative_error(x: Any, ref: np.ndarray) -> float:
    """The first head's error."""
    return norm_error(first_head(x), ref)


def worst_error(xs: Any, refs: Any) -> float:
    """The largest of several results' errors."""
    return max(relative_error(x, ref) for x, ref in zip(xs, refs, strict=True))
