"""One attention problem as plain values: what hypothesis draws, what an error prints, what a bug report quotes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from numba_flash.reference import Array
from numba_flash.testing.layouts import LAYOUTS
from numba_flash.testing.regimes import REGIMES

Shape = tuple[int, ...]


class Arrays(NamedTuple):
    """The operands of a case, as NumPy arrays; options that a case lacks are None."""

    q: Array
    k: Array
    v: Array
    do: Array
    dlse: Array | None
    bias: Array | None
    mask: Array | None
    slopes: Array | None


@dataclass(frozen=True, repr=False)
class Case:
    """Sizes, dtype, options, memory layout and data of one attention problem; the same case has the same arrays.

    Attributes
    ----------
    B, Hq, Hk, Nq, Nk, d, dv : int
        As in `numba_flash.flash_attention`.
    dtype : str
    causal, q_offset, window, scale, softcap
        As in `numba_flash.flash_attention`.
    alibi, bias : (dtype, shape), optional
        Of the slopes, which broadcasts to (B, Hq), and of the bias, which broadcasts to (B, Hq, Nq, Nk).
    mask : shape, optional
        Broadcasts to (B, Hq, Nq, Nk). About a third of its rows is False throughout.
    hidden_rows : bool
        Some rows of the bias are -inf.
    dlse : bool
        Is there a gradient of LSE?
    layouts : names of `layouts.LAYOUTS` for q, k, v and do
    regime : name of `regimes.REGIMES`
    seed : int
        Of the data.
    """

    B: int
    Hq: int
    Hk: int
    Nq: int
    Nk: int
    d: int
    dv: int
    dtype: str = "float32"
    causal: bool = False
    q_offset: int | None = None
    window: tuple[int | None, int | None] | None = None
    scale: float | None = None
    softcap: float | None = None
    alibi: tuple[str, Shape] | None = None
    bias: tuple[str, Shape] | None = None
    hidden_rows: bool = False
    mask: Shape | None = None
    dlse: bool = False
    layouts: tuple[str, str, str, str] = ("contiguous",) * 4
    regime: str = "normal"
    seed: int = 0

    def __repr__(self) -> str:
        """An expression that makes the same case; what has its default is left out."""
        values = ((f.name, getattr(self, f.name), f.default) for f in fields(self))
        return f"Case({', '.join(f'{name}={value!r}' for name, value, default in values if value != default)})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # what hypothesis prints

    @property
    def real(self) -> str:
        """The dtype of LSE."""
        return "float64" if self.dtype == "float64" else "float32"

    def rng(self, stream: int = 1) -> np.random.Generator:
        """Random numbers for a property's own choices; the case's data comes from stream 0."""
        return np.random.default_rng([self.seed, stream])

    def arrays(self) -> Arrays:
        """Operands in the case's layouts: q (B, Hq, Nq, d), k (B, Hk, Nk, d), v (B, Hk, Nk, dv), do (B, Hq, Nq, dv)."""
        rng = self.rng(0)
        rows, keys = (self.B, self.Hq, self.Nq), (self.B, self.Hk, self.Nk)
        qkv = REGIMES[self.regime](rng, ((*rows, self.d), (*keys, self.d), (*keys, self.dv)))
        values = (*qkv, rng.standard_normal((*rows, self.dv)))
        q, k, v, do = (LAYOUTS[how](x.astype(self.dtype)) for how, x in zip(self.layouts, values, strict=True))
        dlse = rng.standard_normal(rows).astype(self.real) if self.dlse else None
        slopes = None if self.alibi is None else rng.random(self.alibi[1]).astype(self.alibi[0])
        return Arrays(q, k, v, do, dlse, self.make_bias(rng), self.make_mask(rng), slopes)

    def make_bias(self, rng: np.random.Generator) -> Array | None:
        """Normal values; with `hidden_rows` about a third of the rows is -inf."""
        if self.bias is None:
            return None
        dtype, shape = self.bias
        bias = rng.standard_normal(shape)
        if self.hidden_rows:
            bias[rng.random(shape[:-1]) < 1 / 3] = -np.inf
        return bias.astype(dtype)

    def make_mask(self, rng: np.random.Generator) -> Array | None:
        """True for about half of the elements; about a third of the rows is False."""
        if self.mask is None:
            return None
        return (rng.random(self.mask) < 0.7) & (rng.random((*self.mask[:-1], 1)) < 2 / 3)

    def options(self) -> dict[str, Any]:
        """The keyword arguments of `flash_attention` that are not at their defaults, arrays among them."""
        x = self.arrays()
        options = {key: getattr(self, key) for key in ("causal", "q_offset", "window", "scale", "softcap")}
        options |= {"alibi_slopes": x.slopes, "bias": x.bias, "mask": x.mask}
        return {key: value for key, value in options.items() if value is not None and value is not False}
