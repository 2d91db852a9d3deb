"""Attention as operators of torch's dispatcher, torch.ops.numba_flash: what torch.compile and torch.export record."""

from __future__ import annotations

from typing import Any

import torch

from numba_flash.torch import eager
from numba_flash.torch.eager import Call, swapped

TENSORS = ("alibi_slopes", "bias", "mask")
# All options. A window is two numbers, since a schema knows no pair of which one may be None.
OPTIONS = (
    "Tensor? alibi_slopes, Tensor? bias, Tensor? mask, bool causal, SymInt? q_offset, SymInt? left, SymInt? right, "
    "float? scale, float? softcap, str kernel, bool deterministic"
)


def call_of(values: tuple[Any, ...]) -> tuple[Call, list[Any]]:
    """The values of OPTIONS as a call and its tensors."""
    extra = {name: x for name, x in zip(TENSORS, values, strict=False) if x is not None}
    causal, q_offset, left, right, scale, softcap, kernel, deterministic = values[len(TENSORS) :]
    options = {
        "causal": causal, "q_offset": q_offset, "window": (left, right), "scale": scale, "softcap": softcap,
        "kernel": kernel,
    }  # fmt: skip
    return Call(options, tuple(extra), deterministic), list(extra.values())


def run_attention(q: Any, k: Any, v: Any, *values: Any) -> tuple[Any, Any]:
    call, extra = call_of(values)
    return eager.forward(call, q, k, v, *extra)


def run_backward(do: Any, q: Any, k: Any, v: Any, o: Any, lse: Any, dlse: Any, *values: Any) -> tuple[Any, Any, Any]:
    call, extra = call_of(values)
    return eager.backward(call, do, q, k, v, o, lse, dlse, *extra)


attention = torch.library.custom_op(
    "numba_flash::attention",
    run_attention,
    mutates_args=(),
    schema=f"(Tensor q, Tensor k, Tensor v, {OPTIONS}) -> (Tensor o, Tensor lse)",
)
attention_backward = torch.library.custom_op(
    "numba_flash::attention_backward",
    run_backward,
    mutates_args=(),
    schema="(Tensor do, Tensor q, Tensor k, Tensor v, Tensor o, Tensor lse, Tensor? dlse, "
    f"{OPTIONS}) -> (Tensor dq, Tensor dk, Tensor dv)",
)


@attention.register_fake
def shapes_of_results(q: Any, k: Any, v: Any, *values: Any) -> tuple[Any, Any]:
    real = torch.float64 if q.dtype == torch.float64 else torch.float32
    return q.new_empty((*q.shape[:-1], v.shape[-1])), q.new_empty(q.shape[:-1], dtype=real)


@attention_backward.register_fake
def shapes_of_gradients(do: Any, q: Any, k: Any, v: Any, *others: Any) -> tuple[Any, Any, Any]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, Any]) -> None:
    """Keep what the backward pass needs; `inputs` are q, k, v and the values of OPTIONS."""
    qkv, extra, ctx.rest = inputs[:3], inputs[3 : 3 + len(TENSORS)], inputs[3 + len(TENSORS) :]
    ctx.save_for_backward(*qkv, *output, *extra)
    ctx.set_materialize_grads(False)


def differentiate(ctx: Any, do: Any, dlse: Any) -> tuple[Any, ...]:
    q, k, v, o, lse, *extra = ctx.saved_tensors
    do = torch.zeros_like(o) if do is None else do
    gradients = attention_backward(do, q, k, v, o, lse, dlse, *extra, *ctx.rest)
    return *gradients, *[None] * (len(extra) + len(ctx.rest))


attention.register_autograd(differentiate, setup_context=save)


def record(call: Call, q: Any, k: Any, v: Any, *extra: Any) -> tuple[Any, Any]:
    """o and lse, as one operator in the graph that torch records; arguments as in `eager.forward`."""
    tensors, options = dict(zip(call.names, extra, strict=True)), call.options
    if call.heads_last:
        q, k, v = swapped(q, k, v)
    o, lse = attention(
        q, k, v, *(tensors.get(name) for name in TENSORS), options["causal"], options["q_offset"],
        *(options["window"] or (None, None)), options["scale"], options["softcap"], options["kernel"],
        call.deterministic,
    )  # fmt: skip
    return o.transpose(1, 2).contiguous() if call.heads_last else o, lse
