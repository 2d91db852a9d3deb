"""Hypothesis strategies for attention problems."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from hypothesis import strategies as st

from numba_flash.problem import FLOATS
from numba_flash.testing.case import Case
from numba_flash.testing.layouts import LAYOUTS
from numba_flash.testing.regimes import REGIMES
from numba_flash.tiling import round_up

POSITIONAL = frozenset({"causal", "q_offset", "window", "alibi"})  # options under which a key's place matters
HIDING = frozenset({"causal", "q_offset", "window", "mask", "hidden_rows"})  # options that may hide a key
SCORE_OPTIONS = frozenset({"softcap", "alibi", "bias", "mask", "hidden_rows"})  # options from flash2 on
OPTIONS = POSITIONAL | HIDING | SCORE_OPTIONS | {"scale", "dlse"}

PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 31, 61, 127, 257, 509, 1021)
FAR = 10**12  # positions and windows that no index may overflow on


def sizes(tile: int, most: int) -> st.SearchStrategy[int]:
    """1, primes, and sizes that straddle one tile and two, up to `most`."""
    straddling = {n * tile + more for n in (1, 2) for more in (-1, 0, 1)}
    return st.sampled_from(sorted(n for n in {1, *PRIMES, *straddling} if 1 <= n <= most))


def broadcastable(shape: Sequence[int]) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes of the same rank that broadcast to `shape`."""
    return st.tuples(*[st.sampled_from((1, n)) if n > 1 else st.just(1) for n in shape])


def heads(most: int) -> st.SearchStrategy[tuple[int, int, int]]:
    """(B, Hk, query heads per KV head), at most `most` query heads in the batch."""
    counts = [(B, Hk, group) for B in (1, 2, 3) for Hk in (1, 2, 3) for group in (1, 2, 3, 4)]
    fitting = [c for c in counts if c[0] * c[1] * c[2] <= most]
    return st.sampled_from(sorted(fitting, key=lambda c: c[0] * c[1] * c[2]) or [(1, 1, 1)])


@st.composite
def attention_cases(
    draw: Callable[[Any], Any],
    *,
    tiles: tuple[int, int] = (8, 8),
    max_rows: int = 19,
    max_depth: int = 20,
    max_scores: int = 640,
    dtypes: Collection[str] = FLOATS,
    options: Collection[str] = OPTIONS,
    layouts: Collection[str] = tuple(LAYOUTS),
    regimes: Collection[str] = tuple(REGIMES),
    few_kernels: bool = False,
    depths: Collection[int] = (),
) -> Case:
    """Attention problems.

    Parameters
    ----------
    tiles : (Br, Bc)
        Numbers of rows and keys straddle multiples of them.
    max_rows, max_depth : int
        Largest Nq and Nk, largest d and dv.
    max_scores : int
        Largest B*Hq*Nq*Nk, with Nq and Nk rounded up to whole tiles, except that one head may have more.
    dtypes : names of dtypes
    options : names from `OPTIONS`
        Those that may differ from their defaults; each does in about a third of the cases.
    layouts, regimes : names from `layouts.LAYOUTS` and `regimes.REGIMES`
    few_kernels : bool
        softcap, ALiBi, bias and mask come all together or not at all, in float32: few kernels to compile.
    depths : values of d and dv, instead of all up to `max_depth`

    Examples
    --------
    >>> from hypothesis import given
    >>> from numba_flash import flash_attention
    >>> @given(case=attention_cases(dtypes=["float32"]))
    ... def test_output_has_the_shape_of_v_for_every_query(case):
    ...     x = case.arrays()
    ...     o = flash_attention(x.q, x.k, x.v, **case.options())
    ...     assert o.shape == (case.B, case.Hq, case.Nq, case.dv)
    """
    Nq, Nk = draw(sizes(tiles[0], max_rows)), draw(sizes(tiles[1], max_rows))
    B, Hk, group = draw(heads(max_scores // (round_up(Nq, tiles[0]) * round_up(Nk, tiles[1]))))
    d, dv = (draw(st.sampled_from(sorted(depths)) if depths else sizes(16, max_depth)) for _ in range(2))
    full = (B, Hk * group, Nq, Nk)
    score_options = draw(st.booleans()) if few_kernels else None
    extra_dtypes = ("float32",) if few_kernels else FLOATS

    def maybe(name: str, strategy: st.SearchStrategy[Any], default: Any = None) -> Any:
        if name not in options:
            return default
        together = score_options if name in ("softcap", "alibi", "bias", "mask") else None
        wanted = draw(st.sampled_from((False, False, True))) if together is None else together
        return draw(strategy) if wanted else default

    def dtype_and_shape(shape: Sequence[int]) -> st.SearchStrategy[Any]:
        return st.tuples(st.sampled_from(extra_dtypes), broadcastable(shape))

    alibi = maybe("alibi", dtype_and_shape(full[:2]))
    bias = maybe("bias", dtype_and_shape(full))
    near = st.integers(-Nq - 1, Nk + 1)  # with ALiBi: far away, neighbouring distances are one float32
    return Case(
        B=B,
        Hq=Hk * group,
        Hk=Hk,
        Nq=Nq,
        Nk=Nk,
        d=d,
        dv=dv,
        dtype=draw(st.sampled_from(sorted(dtypes))),
        causal=maybe("causal", st.just(True), False),
        q_offset=maybe("q_offset", near if alibi else near | st.sampled_from((-FAR, FAR))),
        window=maybe("window", st.tuples(*[st.none() | st.integers(0, max_rows) | st.just(FAR)] * 2)),
        scale=maybe("scale", st.sampled_from((1.0, 0.0, -0.5, 0.01, 3.0))),
        softcap=maybe("softcap", st.sampled_from((1.0, 0.5, 30.0))),
        alibi=alibi,
        bias=bias,
        hidden_rows=bias is not None and maybe("hidden_rows", st.just(True), False),
        mask=maybe("mask", broadcastable(full)),
        dlse=maybe("dlse", st.just(True), False),
        layouts=draw(st.tuples(*[st.sampled_from(list(layouts))] * 4)),
        regime=draw(st.sampled_from(list(regimes))),
        seed=draw(st.integers(0, 2**16 - 1)),
    )
