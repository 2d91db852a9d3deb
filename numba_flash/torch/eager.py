"""Attention in eager mode: an autograd.Function, torch's cheapest way to a gradient that Python computes."""

from __future__ import annotations

from typing import Any

import torch

import numba_flash


def detached(x: Any) -> Any:
    """The tensor without its history, which numba_flash refuses to lose by itself; None stays None."""
    return x.detach() if x is not None and x.requires_grad else x


class Attention(torch.autograd.Function):
    """o and lse as functions of q, k and v."""

    @staticmethod
    def forward(
        ctx: Any, q: Any, k: Any, v: Any, extra: dict[str, Any], options: dict[str, Any], deterministic: bool
    ) -> Any:
        """`extra` holds the options that are tensors or None, `options` the others."""
        q, k, v = detached(q), detached(k), detached(v)
        o, lse = numba_flash.flash_attention(q, k, v, **extra, **options, return_lse=True)
        ctx.save_for_backward(q, k, v, o, lse, *extra.values())
        ctx.extra, ctx.options, ctx.deterministic = tuple(extra), options, deterministic
        ctx.set_materialize_grads(False)
        return o, lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, do: Any, dlse: Any) -> Any:
        q, k, v, o, lse, *extra = ctx.saved_tensors
        do = torch.zeros_like(o) if do is None else detached(do)
        dq, dk, dv = numba_flash.flash_attention_backward(
            do, q, k, v, o, lse, **dict(zip(ctx.extra, extra, strict=True)), **ctx.options,
            dlse=detached(dlse), deterministic=ctx.deterministic,
        )  # fmt: skip
        return dq, dk, dv, None, None, None
