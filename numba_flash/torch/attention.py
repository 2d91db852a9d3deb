"""numba_flash.flash_attention for tensors, with gradients."""

from __future__ import annotations

from typing import Any

import torch

from numba_flash.mods import read_mod
from numba_flash.torch import operator
from numba_flash.torch.checks import check_extra, check_family, check_tensors, refuse_recorded_mods
from numba_flash.torch.eager import Attention, Call, forward


def flash_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool = False,
    q_offset: int | None = None,
    window: tuple[int | None, int | None] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    score_mod: Any = None,
    mask_mod: Any = None,
    return_lse: bool = False,
    deterministic: bool = False,
    kernel: str = "auto",
) -> Any:
    """Exact softmax attention, differentiable in q, k and v, without the score matrix in memory.

    It launches on torch's current stream (``with torch.cuda.stream(s):``), as its gradient does, and leaves dtypes as
    they are under torch.autocast. torch.compile records it as one operator. It has no second derivative and no rule for
    the transforms of torch.func.

    Parameters
    ----------
    q : tensor (..., Hq, Nq, d)
        float16, bfloat16, float32 or float64, on a GPU or in host memory; any strides.
    k, v : tensors (..., Hk, Nk, d) and (..., Hk, Nk, dv) of q's dtype
        Query head h reads KV head h // (Hq // Hk).
    causal, q_offset, window, scale, softcap
        As in `numba_flash.flash_attention`.
    alibi_slopes, bias, mask : tensors, optional
        As in `numba_flash.flash_attention`: they broadcast to (..., Hq), (..., Hq, Nq, Nk) and (..., Hq, Nq, Nk).
        They get no gradients.
    score_mod, mask_mod : functions, optional
        As in `numba_flash.flash_attention`. torch.compile cannot record a call that has one.
    return_lse : bool
        Also return the logarithm of each row's sum of e^s. Gradients flow through it, too.
    deterministic : bool
        Insist on the same gradients, bit for bit, every time; see `numba_flash.flash_attention_backward`.
    kernel : str
        "auto" or a family of rungs, such as "flash2" or "cpu"; where no gradient is asked for, also a rung's name.

    Returns
    -------
    o : tensor (..., Hq, Nq, dv) of q's dtype, contiguous
        Zeros for a query that sees no key.
    lse : tensor (..., Hq, Nq), float32 (float64 for float64), in nats
        Only with return_lse; -inf for a query that sees no key.

    Raises
    ------
    TypeError, ValueError
        If an operand is no tensor, if alibi_slopes or bias requires grad while grad mode is on, and as in
        `numba_flash.flash_attention`.
    RuntimeError
        From torch, if a gradient is differentiated again.

    Examples
    --------
    >>> import torch
    >>> q, k, v = torch.randn(3, 2, 5, 4, requires_grad=True).unbind()  # 2 heads, 5 positions, d = 4
    >>> o, lse = flash_attention(q, k, v, causal=True, return_lse=True)
    >>> o.shape, lse.shape
    (torch.Size([2, 5, 4]), torch.Size([2, 5]))
    >>> dv, = torch.autograd.grad(o.sum(), v)
    >>> torch.allclose(dv.sum(dim=1), torch.tensor(5.0))  # each of 5 rows of P sums to 1
    True
    """
    check_tensors("flash_attention", q=q, k=k, v=v)
    extra = {"alibi_slopes": alibi_slopes, "bias": bias, "mask": mask}
    if not alibi_slopes is bias is mask is None:
        check_extra("flash_attention", **extra)
    options: dict[str, Any] = {
        "causal": causal, "q_offset": q_offset, "window": window, "scale": scale, "softcap": softcap, "kernel": kernel,
    }  # fmt: skip
    if not score_mod is mask_mod is None:
        refuse_recorded_mods("flash_attention", recorded(q))
        options["score_mod"] = read_mod("score_mod", score_mod, differentiated=needs_gradient(q, k, v))
        options["mask_mod"] = read_mod("mask_mod", mask_mod)
    o, lse = attend(q, k, v, options, extra, deterministic)
    return (o, lse) if return_lse else o


def attend(
    q: Any,
    k: Any,
    v: Any,
    options: dict[str, Any],
    extra: dict[str, Any],
    deterministic: bool = False,
    heads_last: bool = False,
) -> tuple[Any, Any]:
    """o and lse of operands that have been checked.

    `extra` holds the options that are tensors or None, `options` the others. With `heads_last` q, k, v and o are
    (B, N, H, d).
    """
    extra = {key: x for key, x in extra.items() if x is not None}
    call = Call(options, tuple(extra), deterministic, heads_last)
    if recorded(q):
        return operator.record(call, q, k, v, *extra.values())
    if needs_gradient(q, k, v):
        if options["kernel"] != "auto":
            check_family(options["kernel"])
        return Attention.apply(call, q, k, v, *extra.values())
    return forward(call, q, k, v, *extra.values())


def needs_gradient(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> bool:
    """Will there be a backward pass?"""
    return torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)


def recorded(q: torch.Tensor) -> bool:
    """Does torch look at the call instead of running it (torch.compile, torch.export, fake and meta tensors)?"""
    return torch.compiler.is_compiling() or type(q) is not torch.Tensor or q.is_meta
