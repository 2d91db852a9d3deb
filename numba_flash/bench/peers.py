"""Other people's attention: every one that is installed and takes the dtype, on the same memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from typing import Any, NamedTuple

from numba_flash.bench import formula
from numba_flash.bench.cells import FASTEST, Cell
from numba_flash.bench.formula import WIDE, Operands

ANY, SHORT = ("float16", "bfloat16", "float32", "float64"), ("float16", "bfloat16")
FORMULA_BYTES = 2**33  # of the score matrix: peers that keep it leave larger problems out
CUPY, CUBLAS, TORCH_SOFTMAX, SDPA = "CuPy formula", "cuBLAS", "torch softmax", "torch SDPA"


@dataclass(frozen=True)
class Kind:
    """A peer of attention.

    module : what it is imported from
    dtypes : that it takes
    make : from a cell, a function of torch tensors q, k, v (B, H, N, d)
    backward, scores, compiles : has it gradients, does it keep the score matrix, is it compiled anew for each cell?
    heads_inside : is it a `flash_attn_func` of arrays (B, N, H, d)?
    """

    name: str
    module: str
    dtypes: tuple[str, ...]
    make: Callable[[Cell], Callable[..., Any]]
    backward: bool = True
    scores: bool = False
    compiles: bool = False
    heads_inside: bool = False

    def takes(self, cell: Cell) -> bool:
        """Does it solve such a problem?"""
        return cell.dtype in self.dtypes and not (self.scores and cell.score_bytes > FORMULA_BYTES)

    @property
    def slow(self) -> bool:
        """To run or to prepare?"""
        return self.scores or self.compiles


class Peer(NamedTuple):
    """One implementation; `backward` is None where it has none."""

    name: str
    forward: Callable[[], Any]
    backward: Callable[[], Any] | None


def sdpa(cell: Cell, backend: str) -> Callable[..., Any]:
    """torch's scaled_dot_product_attention, held to one backend."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    def attention(q: Any, k: Any, v: Any) -> Any:
        with sdpa_kernel(getattr(SDPBackend, backend)):
            return scaled_dot_product_attention(q, k, v, is_causal=bool(cell.causal))

    return attention


def flex_attention(cell: Cell) -> Callable[..., Any]:
    """torch's FlexAttention, compiled by Triton: anew for each cell, since too many shapes would turn it to eager."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch.compiler.reset()
    rule = (lambda b, h, i, j: j <= i) if cell.causal else None
    band = create_block_mask(rule, None, None, cell.N, cell.N, device="cuda") if rule else None
    compiled = torch.compile(flex_attention, fullgraph=True, dynamic=False)
    return lambda q, k, v: compiled(q, k, v, block_mask=band)


def flash_attn_func(cell: Cell, module: str) -> Callable[..., Any]:
    """`flash_attn_func` of a package whose arrays are (B, N, H, d)."""
    function = import_module(module).flash_attn_func

    def attention(q: Any, k: Any, v: Any) -> Any:
        o = function(*(a.transpose(1, 2) for a in (q, k, v)), causal=bool(cell.causal))
        return (o[0] if isinstance(o, tuple) else o).transpose(1, 2)

    return attention


KINDS = (
    Kind("torch efficient", "torch", ("float16", "bfloat16", "float32"), partial(sdpa, backend="EFFICIENT_ATTENTION")),
    Kind("torch flash", "torch", SHORT, partial(sdpa, backend="FLASH_ATTENTION")),
    Kind("torch cuDNN", "torch", SHORT, partial(sdpa, backend="CUDNN_ATTENTION")),
    Kind("torch math", "torch", ANY, partial(sdpa, backend="MATH"), scores=True),
    Kind("FlexAttention", "torch.nn.attention.flex_attention", SHORT, flex_attention, compiles=True),
    Kind("flash_attn", "flash_attn.flash_attn_interface", SHORT,
         partial(flash_attn_func, module="flash_attn.flash_attn_interface"), heads_inside=True),
    Kind("FlashAttention-3", "fa3_fwd_interface", SHORT, partial(flash_attn_func, module="fa3_fwd_interface"),
         backward=False, heads_inside=True),
    Kind("FlashAttention-4", "flash_attn.cute", SHORT, partial(flash_attn_func, module="flash_attn.cute"),
         heads_inside=True),
)  # fmt: skip

# The module that every peer is imported from; the last one chooses among torch's backends, in the table of host costs.
PEERS = {CUPY: "cupy", CUBLAS: "cupy", TORCH_SOFTMAX: "torch", **{k.name: k.module for k in KINDS}, SDPA: "torch"}


@cache
def missing(module: str) -> str:
    """Why a module cannot be used here; empty if it can."""
    try:
        import_module(module)
        if module.partition(".")[0] == "torch" and not import_module("torch").cuda.is_available():
            return "this torch has no GPU"
    except Exception as error:  # a package built for another torch may raise anything
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def plain(name: str) -> str:
    """A name without case, spaces and punctuation."""
    return "".join(c for c in name.lower() if c.isalnum())


def chosen(name: str, patterns: Collection[str]) -> bool:
    """Does a peer's name begin with one of the patterns, if there are any?"""
    return not patterns or any(plain(name).startswith(plain(pattern)) for pattern in patterns)


def takes_part(name: str, patterns: Collection[str]) -> bool:
    """Is a peer chosen, and importable?"""
    return chosen(name, patterns) and not missing(PEERS[name])


def unknown(patterns: Collection[str]) -> str:
    """What is wrong with the names of peers that were asked for; empty if nothing."""
    nobody = [pattern for pattern in patterns if not any(chosen(name, [pattern]) for name in PEERS)]
    if nobody:
        return f"no peer's name begins with {', '.join(nobody)} (there are {', '.join(PEERS)})"
    return ""


def unusable(patterns: Collection[str]) -> str:
    """Which of the peers that were asked for cannot be imported here, and which can; empty if all can."""
    nobody = [p for p in patterns if not any(takes_part(name, [p]) for name in PEERS)]
    if not nobody:
        return ""
    why = {PEERS[name]: missing(PEERS[name]) for name in PEERS if chosen(name, nobody)}
    here = ", ".join(name for name in PEERS if takes_part(name, ())) or "none"
    return f"no peer here for {', '.join(nobody)} ({'; '.join(why.values())}); importable are {here}"


def absent() -> list[str]:
    """The peers that cannot be imported here."""
    return [name for name, module in PEERS.items() if missing(module)]


def attention_peers(cell: Cell, x: Operands, patterns: Collection[str] = ()) -> Iterator[Peer]:
    """The chosen peers for one problem; where only the fastest are timed, slow ones must have been named."""
    slow_too = cell.who != FASTEST or bool(patterns)
    if slow_too and takes_part(CUPY, patterns) and cell.score_bytes <= FORMULA_BYTES:
        yield Peer(CUPY, *cupy_attention(x, cell.dtype, bool(cell.causal)))
    for kind in KINDS:
        if kind.takes(cell) and takes_part(kind.name, patterns) and (slow_too or not kind.slow):
            yield torch_peer(kind, cell, x)


def cupy_attention(x: Operands, dtype: str, causal: bool) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The formula, forward and backward; in float32 for 16-bit arrays, whose products CuPy takes so or not at all."""
    import cupy

    wide = WIDE[dtype]

    def forward() -> Any:
        return formula.attention(cupy, x.astype(wide), causal).astype(dtype, copy=False)

    def backward() -> Any:
        return tuple(g.astype(dtype, copy=False) for g in formula.gradients(cupy, x.astype(wide), causal))

    return forward, backward


def torch_peer(kind: Kind, cell: Cell, x: Operands) -> Peer:
    """A function of torch tensors, with its gradient by autograd; made when it is first called."""
    import torch

    do, q, k, v = (torch.from_dlpack(a) for a in x)
    attention = cache(lambda: kind.make(cell))

    @cache
    def recorded() -> tuple[Any, list[Any]]:
        leaves = [a.clone().requires_grad_() for a in (q, k, v)]
        return attention()(*leaves), leaves

    def backward() -> Any:
        o, leaves = recorded()
        return torch.autograd.grad(o, leaves, do, retain_graph=True)

    return Peer(kind.name, lambda: attention()(q, k, v), backward if kind.backward else None)
