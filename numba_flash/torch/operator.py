"""Attention as operators of torch's dispatcher, torch.ops.numba_flash: what torch.compile and torch.export record."""

from __future__ import annotations

from typing import Any

import torch

import numba_flash
from numba_flash.torch.eager import detached

# Options after the tensors. A window is two numbers: a schema knows no pair of which one may be None.
OPTIONS = (
    "Tensor? alibi_slopes, Tensor? bias, Tensor? mask, bool causal, SymInt? q_offset, SymInt? left, SymInt? right, "
    "float? scale, float? softcap, bool deterministic, str kernel"
)


def keywords(
    alibi_slopes: Any, bias: Any, mask: Any, causal: bool, q_offset: Any, left: Any, right: Any, scale: Any,
    softcap: Any, deterministic: bool, kernel: str,
) -> dict[str, Any]:  # fmt: skip
    """The values of OPTIONS as keyword arguments of numba_flash's functions."""
    return {
        "alibi_slopes": detached(alibi_slopes), "bias": detached(bias), "mask": mask, "causal": causal,
        "q_offset": q_offset, "window": (left, right), "scale": scale, "softcap": softcap,
        "deterministic": deterministic, "kernel": kernel,
    }  # fmt: skip


def run_forward(q: Any, k: Any, v: Any, *values: Any) -> tuple[Any, Any]:
    options = keywords(*values)
    del options["deterministic"]  # a forward always is
    return numba_flash.flash_attention(detached(q), detached(k), detached(v), **options, return_lse=True)


def run_backward(do: Any, q: Any, k: Any, v: Any, o: Any, lse: Any, dlse: Any, *values: Any) -> tuple[Any, Any, Any]:
    tensors = (detached(x) for x in (do, q, k, v, o, lse))
    return numba_flash.flash_attention_backward(*tensors, dlse=detached(dlse), **keywords(*values))


forward = torch.library.custom_op(
    "numba_flash::attention",
    run_forward,
    mutates_args=(),
    schema=f"(Tensor q, Tensor k, Tensor v, {OPTIONS}) -> (Tensor o, Tensor lse)",
)
backward = torch.library.custom_op(
    "numba_flash::attention_backward",
    run_backward,
    mutates_args=(),
    schema="(Tensor do, Tensor q, Tensor k, Tensor v, Tensor o, Tensor lse, Tensor? dlse, "
    f"{OPTIONS}) -> (Tensor dq, Tensor dk, Tensor dv)",
)


@forward.register_fake
def fake_forward(q: Any, k: Any, v: Any, *values: Any) -> tuple[Any, Any]:
    """Shapes and dtypes without numbers; results are contiguous."""
    real = torch.float64 if q.dtype == torch.float64 else torch.float32
    return q.new_empty((*q.shape[:-1], v.shape[-1])), q.new_empty(q.shape[:-1], dtype=real)


@backward.register_fake
def fake_backward(do: Any, q: Any, k: Any, v: Any, *others: Any) -> tuple[Any, Any, Any]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, Any]) -> None:
    q, k, v, *values = inputs
    extra, ctx.numbers = values[:3], values[3:]
    ctx.save_for_backward(q, k, v, *output, *extra)
    ctx.set_materialize_grads(False)


def differentiate(ctx: Any, do: Any, dlse: Any) -> tuple[Any, ...]:
    q, k, v, o, lse, *extra = ctx.saved_tensors
    do = torch.zeros_like(o) if do is None else do
    return *backward(do, q, k, v, o, lse, dlse, *extra, *ctx.numbers), *[None] * len((*extra, *ctx.numbers))


forward.register_autograd(differentiate, setup_context=save)
