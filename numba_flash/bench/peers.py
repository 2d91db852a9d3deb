"""Other people's attention: every one that is installed and takes the dtype, on the same memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

from numba_flash.bench.cells import Cell
from numba_flash.demo import naive_attention, naive_gradients

ANY, SHORT = ("float16", "float32", "float64"), ("float16",)
SDPA = {  # torch's name of the backend, and the dtypes that it takes
    "torch efficient": ("EFFICIENT_ATTENTION", ("float16", "float32")),
    "torch flash": ("FLASH_ATTENTION", SHORT),
    "torch cuDNN": ("CUDNN_ATTENTION", SHORT),
    "torch math": ("MATH", ANY),
}


class Operands(NamedTuple):
    """CuPy arrays (B, H, N, d)."""

    do: Any
    q: Any
    k: Any
    v: Any


class Peer(NamedTuple):
    """One implementation; `backward` is None where it has none."""

    name: str
    forward: Callable[[], Any]
    backward: Callable[[], Any] | None


def attention_peers(cell: Cell, x: Operands, flex: bool = False) -> Iterator[Peer]:
    """All peers for one problem; FlexAttention, which compiles for long, only if asked for."""
    import cupy

    causal = bool(cell.causal)
    yield Peer(
        "CuPy formula",
        lambda: naive_attention(cupy, x.q, x.k, x.v, causal)[0],
        lambda: naive_gradients(cupy, x.do, x.q, x.k, x.v, causal),
    )
    if find_spec("torch") is None:
        return
    for name, (backend, dtypes) in SDPA.items():
        if cell.dtype in dtypes:
            yield torch_peer(name, sdpa(backend, causal), x)
    if cell.dtype not in SHORT:
        return
    if flex:
        yield torch_peer("FlexAttention", flex_attention(causal, cell.N), x)
    if find_spec("flash_attn"):
        yield torch_peer("flash_attn", heads_inside("flash_attn", causal), x)
    if find_spec("fa3_fwd_interface"):
        forward = torch_peer("FlashAttention-3", heads_inside("fa3_fwd_interface", causal), x).forward
        yield Peer("FlashAttention-3", forward, None)


def torch_peer(name: str, attention: Callable[..., Any], x: Operands) -> Peer:
    """A function of torch tensors q, k, v (B, H, N, d), with its gradient by autograd."""
    import torch

    do, q, k, v = (torch.from_dlpack(a) for a in x)

    @cache
    def recorded() -> tuple[Any, list[Any]]:
        leaves = [a.clone().requires_grad_() for a in (q, k, v)]
        return attention(*leaves), leaves

    def backward() -> Any:
        o, leaves = recorded()
        return torch.autograd.grad(o, leaves, do, retain_graph=True)

    return Peer(name, lambda: attention(q, k, v), backward)


def sdpa(backend: str, causal: bool) -> Callable[..., Any]:
    """torch's scaled_dot_product_attention, held to one backend."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    def attention(q: Any, k: Any, v: Any) -> Any:
        with sdpa_kernel(getattr(SDPBackend, backend)):
            return scaled_dot_product_attention(q, k, v, is_causal=causal)

    return attention


def flex_attention(causal: bool, N: int) -> Callable[..., Any]:
    """torch's FlexAttention, compiled by Triton."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    band = create_block_mask(lambda b, h, i, j: j <= i, None, None, N, N) if causal else None
    compiled = torch.compile(flex_attention)
    return lambda q, k, v: compiled(q, k, v, block_mask=band)


def heads_inside(module: str, causal: bool) -> Callable[..., Any]:
    """`flash_attn_func` of a package whose arrays are (B, N, H, d)."""
    function = import_module(module).flash_attn_func

    def attention(q: Any, k: Any, v: Any) -> Any:
        o = function(*(a.transpose(1, 2) for a in (q, k, v)), causal=causal)
        return (o[0] if isinstance(o, tuple) else o).transpose(1, 2)

    return attention
