"""The functions of flash-attn (Dao-AILab/flash-attention, version 2) for batches of equal length."""

from __future__ import annotations

from typing import Any

import torch

from numba_flash.torch.attention import attend
from numba_flash.torch.autocast import autocast
from numba_flash.torch.checks import check_dropout, check_extra, check_shape, check_tensors


def flash_attn_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: torch.Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Any:
    """flash_attn.flash_attn_func with its meaning: heads come after positions.

    Parameters
    ----------
    q : tensor (B, Nq, Hq, d)
        float16, bfloat16 and, unlike in flash-attn, float32 or float64. Under torch.autocast all but float64 become its
        dtype.
    k, v : tensors (B, Nk, Hk, d) and (B, Nk, Hk, dv)
        Query head h reads KV head h // (Hq // Hk).
    dropout_p : float
        0.0 only.
    softmax_scale : float, optional
        1/sqrt(d) by default.
    causal : bool
        The last query sees the last key: the mask is aligned to the bottom right corner.
    window_size : (left, right)
        Query i sees keys from i + Nk - Nq - left to i + Nk - Nq + right; below 0: no limit on that side.
    softcap : float
        Scores become softcap*tanh(score/softcap); 0.0: off.
    alibi_slopes : tensor (Hq,) or (B, Hq), optional
        -slope*|i + Nk - Nq - j| is added to scores.
    deterministic : bool
        The same gradients, bit for bit, every time.
    return_attn_probs : bool
        Return the log of each row's sum, too.

    Returns
    -------
    out : tensor (B, Nq, Hq, dv) of q's dtype, contiguous
        Zeros for a query that sees no key.
    softmax_lse : tensor (B, Hq, Nq), float32 (float64 for float64), in nats
        Only with return_attn_probs. Unlike in flash-attn, gradients flow through it, and it is -inf, not inf, for a
        query that sees no key.
    S_dmask : None
        Only with return_attn_probs. The probabilities never exist as a whole.

    Raises
    ------
    TypeError, ValueError
        If q, k or v is no tensor of four axes, if dropout_p is not 0, if alibi_slopes requires grad while grad mode is
        on, and as in `numba_flash.flash_attention`.

    Examples
    --------
    >>> import torch
    >>> q, k, v = torch.randn(3, 1, 5, 2, 4).unbind()  # 5 positions, 2 heads, d = 4
    >>> out, lse, _ = flash_attn_func(q, k, v, causal=True, return_attn_probs=True)
    >>> out.shape, lse.shape
    (torch.Size([1, 5, 2, 4]), torch.Size([1, 2, 5]))
    >>> torch.allclose(out[:, 0], v[:, 0])  # the first query sees the first key alone
    True
    """
    check_tensors("flash_attn_func", q=q, k=k, v=v)
    check_extra("flash_attn_func", alibi_slopes=alibi_slopes)
    check_dropout("flash_attn_func", dropout_p)
    for operand, x in (("q", q), ("k", k), ("v", v)):
        check_shape("flash_attn_func", operand, x, "(B, N, H, d)", x.ndim == 4)
    left, right = window_size
    options = {
        "causal": causal, "q_offset": None, "scale": softmax_scale, "kernel": "auto",
        "window": (left if left >= 0 else None, right if right >= 0 else None),
        "softcap": softcap if softcap > 0 else None,
    }  # fmt: skip
    q, k, v = autocast(q, k, v)
    out, lse = attend(q, k, v, options, {"alibi_slopes": alibi_slopes}, deterministic, heads_last=True)
    return (out, lse, None) if return_attn_probs else out


def flash_attn_kvpacked_func(
    q: torch.Tensor,
    kv: torch.Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: torch.Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Any:
    """flash_attn.flash_attn_kvpacked_func: `flash_attn_func` with keys and values in one tensor.

    Parameters
    ----------
    q : tensor (B, Nq, Hq, d)
    kv : tensor (B, Nk, 2, Hk, d) of q's dtype
        Keys and values, read where they are, without a copy.
    dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic, return_attn_probs
        As in `flash_attn_func`.

    Returns
    -------
    out, or (out, softmax_lse, None) with return_attn_probs
        As from `flash_attn_func`.

    Raises
    ------
    TypeError, ValueError
        If kv has another shape, and as in `flash_attn_func`.

    Examples
    --------
    >>> import torch
    >>> q, kv = torch.randn(1, 5, 4, 8), torch.randn(1, 7, 2, 2, 8)
    >>> torch.equal(flash_attn_kvpacked_func(q, kv), flash_attn_func(q, kv[:, :, 0], kv[:, :, 1]))
    True
    """
    check_tensors("flash_attn_kvpacked_func", kv=kv)
    packed = kv.ndim == 5 and kv.shape[2] == 2
    check_shape("flash_attn_kvpacked_func", "kv", kv, "(B, N, 2, H, d)", packed)
    k, v = kv.unbind(2)
    return flash_attn_func(
        q, k, v, dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic,
        return_attn_probs,
    )  # fmt: skip


def flash_attn_qkvpacked_func(
    qkv: torch.Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: torch.Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Any:
    """flash_attn.flash_attn_qkvpacked_func: `flash_attn_func` with all operands in one tensor.

    Parameters
    ----------
    qkv : tensor (B, N, 3, H, d)
        Queries, keys and values, read where they are, without a copy.
    dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic, return_attn_probs
        As in `flash_attn_func`.

    Returns
    -------
    out, or (out, softmax_lse, None) with return_attn_probs
        As from `flash_attn_func`.

    Raises
    ------
    TypeError, ValueError
        If qkv has another shape, and as in `flash_attn_func`.

    Examples
    --------
    >>> import torch
    >>> qkv = torch.randn(1, 5, 3, 2, 8)
    >>> torch.equal(flash_attn_qkvpacked_func(qkv), flash_attn_func(*qkv.unbind(2)))
    True
    """
    check_tensors("flash_attn_qkvpacked_func", qkv=qkv)
    packed = qkv.ndim == 5 and qkv.shape[2] == 3
    check_shape("flash_attn_qkvpacked_func", "qkv", qkv, "(B, N, 3, H, d)", packed)
    q, k, v = qkv.unbind(2)
    return flash_attn_func(
        q, k, v, dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic,
        return_attn_probs,
    )  # fmt: skip
