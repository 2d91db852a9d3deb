"""torch.nn.functional.scaled_dot_product_attention."""

from __future__ import annotations

from typing import Any

import torch

from numba_flash.torch.attention import attend
from numba_flash.torch.autocast import autocast
from numba_flash.torch.checks import check_dropout, check_extra, check_tensors

NAME = "scaled_dot_product_attention"
ANYWHERE = {"causal": False, "q_offset": None}
TOP_LEFT = {"causal": True, "q_offset": 0}
BOTTOM_RIGHT = {"causal": True, "q_offset": None}


def scaled_dot_product_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """torch.nn.functional.scaled_dot_product_attention with torch's meaning.

    Parameters
    ----------
    query : tensor (..., Hq, L, E)
        float16, bfloat16, float32 or float64; under torch.autocast all but float64 become its dtype.
    key, value : tensors (..., H, S, E) and (..., H, S, Ev)
        H is Hq unless `enable_gqa`. Leading axes broadcast.
    attn_mask : tensor that broadcasts to (..., Hq, L, S), optional
        bool: True takes part. Float: added to the scores; of any float dtype; it gets no gradient. Or a causal bias
        of torch.nn.attention.bias.
    dropout_p : float
        0.0 only.
    is_causal : bool
        Query i sees keys j <= i: the mask is aligned to the top left corner, unlike that of
        `numba_flash.torch.flash_attention`.
    scale : float, optional
        1/sqrt(E) by default.
    enable_gqa : bool
        Hq may be a multiple of H: query head h reads KV head h // (Hq // H).

    Returns
    -------
    tensor (..., Hq, L, Ev) of query's dtype, contiguous
        Zeros for a query that sees no key, as torch gives since 2.5.

    Raises
    ------
    TypeError, ValueError
        If an operand is no tensor, if leading axes do not broadcast, if dropout_p is not 0, if attn_mask is given
        together with is_causal or requires grad while grad mode is on, and as in `numba_flash.flash_attention`.

    Examples
    --------
    >>> import torch
    >>> query, key, value = torch.randn(3, 1, 2, 5, 4).unbind()
    >>> ours = scaled_dot_product_attention(query, key, value, is_causal=True)
    >>> theirs = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    >>> torch.allclose(ours, theirs, atol=1e-6)
    True
    """
    check_tensors(NAME, query=query, key=key, value=value)
    check_extra(NAME, attn_mask=attn_mask)
    check_dropout(NAME, dropout_p)
    positions, extra = visibility(attn_mask, is_causal)
    query, key, value = autocast(*broadcast(query, key, value, kept=3 if enable_gqa else 2))
    options = {**positions, "window": None, "scale": scale, "softcap": None, "kernel": "auto"}
    return attend(query, key, value, options, extra)[0]


def visibility(attn_mask: Any, is_causal: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """What attn_mask and is_causal say, as options of numba_flash: of positions, and tensors."""
    if attn_mask is None:
        return TOP_LEFT if is_causal else ANYWHERE, {}
    if is_causal:
        raise ValueError(f"{NAME}: attn_mask and is_causal exclude each other.")
    if type(attn_mask) is not torch.Tensor:
        from torch.nn.attention.bias import CausalBias, CausalVariant  # slow to import, but whoever made one has

        if isinstance(attn_mask, CausalBias):  # a tensor without meaningful elements
            return TOP_LEFT if attn_mask.variant == CausalVariant.UPPER_LEFT else BOTTOM_RIGHT, {}
    return ANYWHERE, {"mask" if attn_mask.dtype == torch.bool else "bias": attn_mask}


def broadcast(query: Any, key: Any, value: Any, kept: int) -> tuple[Any, Any, Any]:
    """The tensors with common leading axes before the last `kept` axes, repeated by strides of 0 where they lack some.

    Raises ValueError where they do not fit.
    """
    tensors = (query, key, value)
    shapes = [x.shape[:-kept] for x in tensors]
    if shapes[0] == shapes[1] == shapes[2]:
        return tensors
    try:
        lead = torch.broadcast_shapes(*shapes)
    except RuntimeError as error:
        advice = "" if kept > 2 else " (heads included: enable_gqa=True lets several query heads share a KV head)"
        raise ValueError(
            f"{NAME}: leading axes do not broadcast{advice}: query {tuple(query.shape)}, "
            f"key {tuple(key.shape)}, value {tuple(value.shape)}."
        ) from error
    query, key, value = (x.expand(*lead, *x.shape[-kept:]) for x in tensors)
    return query, key, value
