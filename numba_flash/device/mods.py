"""score_mod and mask_mod on a thread's `Piece` of a score tile at (row0, col0).

A compiler unrolls a loop over a piece if its body is short, and a piece whose loops stay loops lies in local memory. A
mod may be long. So here the loop is written out: a line of Python for each element.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable
from functools import cache
from typing import Any

from numba import int32

from numba_flash.config import AnyPiece
from numba_flash.device.number import number
from numba_flash.device.products import make_element, make_rows_and_columns
from numba_flash.mods import Mod, Words
from numba_flash.problem import ScoreOptions, real_of
from numba_flash.ptx import choose, device, divide
from numba_flash.simulator import SIMULATED


@device
def divide_float64(x, y):
    return x / y


@device
def existing(n, count):
    """Number n of `count` rows or columns; the last one for those beyond."""
    return int32(min(n, count - 1))


@device
def anywhere(n, count):
    """Number n, be it beyond the last one."""
    return int32(n)


@cache
def make_bend(piece: AnyPiece, score: ScoreOptions, dtype: str, differentiated: bool) -> Callable[..., Any]:
    """Make bend(s, derivative, rg, cg, row0, col0, Nq, Nk, b, h): score_mod of all scores, in place.

    If `differentiated`, `derivative` becomes that by the score. Without a score_mod it does nothing.
    """
    mod, results = score.score_mod, "s[{x}], derivative[{x}]" if differentiated else "s[{x}]"
    if mod is None:
        return nothing
    make = mod.value_and_derivative if differentiated else mod.value
    return written_out(piece, mod, make, dtype, results + " = mod(s[{x}], b, h, i{r}, j{c})")


@cache
def make_hide_by_mod(piece: AnyPiece, score: ScoreOptions, dtype: str) -> Callable[..., Any]:
    """Make hide_by_mod, with bend's arguments: -inf where mask_mod says False. Without one it does nothing."""
    mod = score.mask_mod
    if mod is None:
        return nothing
    line = "s[{x}] = s[{x}] if mod(b, h, i{r}, j{c}) else NEG_INF"
    return written_out(piece, mod, mod.value, dtype, line)


@device
def nothing(s, derivative, rg, cg, row0, col0, Nq, Nk, b, h):
    """No mod."""


@cache
def words(real: str) -> Words:
    """What a mod's functions are on a GPU."""
    return Words(choose, divide if real == "float32" else divide_float64, number(real).tanh)


def written_out(piece: AnyPiece, mod: Mod, make: Callable[..., Any], dtype: str, line: str) -> Callable[..., Any]:
    """A device function of a line for each element (r, c): number x of the piece, in row `i{r}` and column `j{c}`.

    A mod that looks numbers up meets the last row and column in the place of those beyond.
    """
    row_of, column_of = make_rows_and_columns(piece)
    rows, columns = range(piece.TM), range(piece.TN)
    text = [
        "def each(s, derivative, rg, cg, row0, col0, Nq, Nk, b, h):",
        *(f"    i{r} = within(row0 + row_of(rg, {r}), Nq)" for r in rows),
        *(f"    j{c} = within(col0 + column_of(cg, {c}), Nk)" for c in columns),
        *("    " + line.format(x=f"at({r}, {c})", r=r, c=c) for r in rows for c in columns),
    ]
    names = {
        "mod": device(make(real_of(dtype), not SIMULATED, words(real_of(dtype)))), "NEG_INF": number(dtype).neg_inf,
        "row_of": row_of, "column_of": column_of, "at": make_element(piece),
        "within": existing if mod.indexes else anywhere,
    }  # fmt: skip
    file = f"<{mod.kind} of every element of {piece}>"
    linecache.cache[file] = (0, None, [f"{x}\n" for x in text], file)  # for debuggers
    exec(compile("\n".join(text), file, "exec"), names)
    return device(names["each"])
