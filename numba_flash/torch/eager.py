"""Attention in eager mode: an autograd.Function, torch's cheapest way to a gradient that Python computes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

import numba_flash


class Call(NamedTuple):
    """What a call says besides its tensors.

    options : keyword arguments of `numba_flash.flash_attention`
    names : those of the options that are tensors
    deterministic : as in `numba_flash.flash_attention_backward`
    heads_last : q, k, v and o are (B, N, H, d)
    """

    options: dict[str, Any]
    names: tuple[str, ...] = ()
    deterministic: bool = False
    heads_last: bool = False


def swapped(*tensors: Any) -> list[Any]:
    """Views with heads and positions swapped: of (B, N, H, d) as (B, H, N, d), and back."""
    return [x.transpose(1, 2) for x in tensors]


def keywords(call: Call, extra: tuple[Any, ...]) -> dict[str, Any]:
    """A call's options, the tensors among them included."""
    return {**call.options, **dict(zip(call.names, extra, strict=True))} if extra else call.options


def forward(call: Call, q: Any, k: Any, v: Any, *extra: Any) -> tuple[Any, Any]:
    """o, contiguous, and lse; `extra` are the tensors that `call.names` names. Gradients are the caller's business."""
    options = keywords(call, extra)
    if not call.heads_last:
        return numba_flash.flash_attention(q, k, v, return_lse=True, **options)
    q, k, v = swapped(q, k, v)
    o, lse = numba_flash.flash_attention(q, k, v, return_lse=True, **options)
    return o.transpose(1, 2).contiguous(), lse


def backward(
    call: Call, do: Any, q: Any, k: Any, v: Any, o: Any, lse: Any, dlse: Any, *extra: Any
) -> tuple[Any, Any, Any]:
    """dq, dk and dv; arguments as in `forward`."""
    options = keywords(call, extra)
    if call.heads_last:
        do, q, k, v, o = swapped(do, q, k, v, o)
    dq, dk, dv = numba_flash.flash_attention_backward(
        do, q, k, v, o, lse, dlse=dlse, deterministic=call.deterministic, **options
    )
    if call.heads_last:
        dq, dk, dv = swapped(dq, dk, dv)
    return dq, dk, dv


class Attention(torch.autograd.Function):
    """o and lse as functions of q, k and v."""

    @staticmethod
    def forward(ctx: Any, call: Call, q: Any, k: Any, v: Any, *extra: Any) -> Any:
        o, lse = forward(call, q, k, v, *extra)
        ctx.save_for_backward(q, k, v, o, lse, *extra)
        ctx.call = call
        ctx.set_materialize_grads(False)
        return o, lse

    @staticmethod
    def backward(ctx: Any, do: Any, dlse: Any) -> Any:
        q, k, v, o, lse, *extra = ctx.saved_tensors
        do = torch.zeros_like(o) if do is None else do
        compute = Gradients.apply if torch.is_grad_enabled() else backward  # enabled by create_graph=True
        return None, *compute(ctx.call, do, q, k, v, o, lse, dlse, *extra), *[None] * len(extra)


class Gradients(torch.autograd.Function):
    """The gradients as results that torch knows to depend on q, k and v, so that none of them is lost silently."""

    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Any) -> Any:
        return backward(call, *tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise RuntimeError("flash_attention: its gradients cannot be differentiated again (no second derivatives).")
