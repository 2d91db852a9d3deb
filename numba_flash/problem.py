"""What is asked for: one attention or matmul problem, validated, with every complaint about the inputs in one error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from numba_flash.arrays import ALIGNED, Array, Unreadable, fold_leading, no_array
from numba_flash.mods import Mod, Refused
from numba_flash.tiling import band, seen_keys

FLOATS = ("float16", "bfloat16", "float32", "float64")


def real_of(dtype: str) -> str:
    """The dtype of arithmetic and of LSE for operands of a dtype."""
    return "float64" if dtype == "float64" else "float32"


class Reasons:
    """Complaints, collected so that one error can list them all."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.found: list[str] = []
        self.error: type[Exception] = ValueError

    def add(self, reason: str, error: type[Exception] = ValueError) -> None:
        """Note a reason; the first TypeError among them makes the whole a TypeError."""
        self.found.append(reason)
        if error is TypeError:
            self.error = TypeError

    def read(self, operand: str, x: Array | Unreadable | None) -> Array | None:
        """The operand; None, and a reason, where it is no readable array."""
        if x is None or isinstance(x, Unreadable):
            self.add(f"{operand}: {x.reason if x else no_array(x)}", TypeError)
            return None
        return x

    def raise_if_any(self) -> None:
        """Raise one error that lists every reason."""
        if self.found:
            raise self.error(f"{self.name}: {'; '.join(self.found)}.")


@dataclass(frozen=True)
class ScoreOptions:
    """What happens to a score between scale*q.k and softmax, as far as it changes the code of a kernel."""

    softcap: bool = False
    alibi: str | None = None  # dtype of the slopes
    bias: str | None = None  # dtype of the bias
    mask: bool = False
    score_mod: Mod | None = None
    mask_mod: Mod | None = None

    @property
    def bends(self) -> bool:
        """Is the score another function of the scaled product than itself and a summand?"""
        return self.softcap or self.score_mod is not None

    @property
    def light(self) -> bool:
        """Do they need few registers? An array of a number for every pair needs addresses, a long mod its variables."""
        mods = (mod for mod in (self.score_mod, self.mask_mod) if mod is not None)
        return self.bias is None and not self.mask and all(mod.light for mod in mods)

    @property
    def hides(self) -> bool:
        """May it become -inf, or anything, beside what the band hides?"""
        return self.bias is not None or self.mask or self.score_mod is not None or self.mask_mod is not None


@dataclass(frozen=True)
class AttentionProblem:
    """One attention problem of four-axis operands: sizes, dtype, the rule of visibility and the score's options.

    Query i sees key j if i + first <= j <= i + last and the mask, if there is one, says so. `vector`: every operand
    can be read 16 bytes at a time. `deterministic`: the same bits every time. `device`: the CUDA device of the
    operands, None for host memory.
    """

    B: int
    Hq: int
    Hk: int
    Nq: int
    Nk: int
    d: int
    dv: int
    dtype: str
    scale: float
    first: int
    last: int
    q_offset: int = 0
    softcap: float | None = None
    score: ScoreOptions = ScoreOptions()
    vector: bool = True
    deterministic: bool = False
    device: int | None = None

    @property
    def real(self) -> str:
        """The dtype of arithmetic and of LSE."""
        return real_of(self.dtype)


def visible_pairs(problem: AttentionProblem) -> int:
    """How many (query, key) pairs the band of a problem keeps, over all heads."""
    ranges = (seen_keys(i, problem.Nk, problem.first, problem.last) for i in range(problem.Nq))
    return problem.B * problem.Hq * sum(end - begin for begin, end in ranges)


@dataclass(frozen=True)
class Operands:
    """The arrays of one AttentionProblem: (B, H, N, d) each; bias and mask (B, Hq, Nq, Nk), slopes (B, Hq)."""

    q: Array
    k: Array
    v: Array
    bias: Array | None = None
    mask: Array | None = None
    slopes: Array | None = None
    do: Array | None = None
    o: Array | None = None
    lse: Array | None = None
    dlse: Array | None = None


@dataclass(frozen=True)
class AttentionRequest:
    """A validated call: one problem for each group of operands (see `fold_leading`), and the results' shapes."""

    problems: list[tuple[AttentionProblem, Operands]]
    q: Array  # the results' library, dtype and device
    shapes: dict[str, tuple[int, ...]]  # of q, k, v, o, lse... as the caller sees them
    nothing_seen: bool  # no queries, no keys or no heads: the results are known

    @property
    def real(self) -> str:
        """The dtype of LSE."""
        return real_of(self.q.dtype)


def attention_request(
    reasons: Reasons,
    q: Any,
    k: Any,
    v: Any,
    *,
    causal: bool = False,
    q_offset: int | None = None,
    window: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: Any = None,
    bias: Any = None,
    mask: Any = None,
    score_mod: Mod | Refused | None = None,
    mask_mod: Mod | Refused | None = None,
    backward: dict[str, Any] | None = None,
    deterministic: bool = False,
) -> AttentionRequest:
    """Check a call of the public API and fold its operands to four axes.

    `backward` holds do, o, lse and dlse of a backward call. Raises one ValueError or TypeError with every reason, those
    that the caller has found already included.
    """
    given = {"q": q, "k": k, "v": v, "alibi_slopes": alibi_slopes, "bias": bias, "mask": mask, **(backward or {})}
    operands = {key: reasons.read(key, x) for key, x in given.items() if x is not None}
    for key in ("q", "k", "v", *(n for n in (backward or {}) if n != "dlse")):
        if given[key] is None:
            reasons.add(f"{key} is None", TypeError)
    check_positions(reasons, causal, q_offset, window)
    first_operand = operands.get("q")
    real = "float64" if first_operand is None else real_of(first_operand.dtype)
    check_number(reasons, "scale", scale, real)
    check_number(reasons, "softcap", softcap, real, above_zero=True)
    for mod in (score_mod, mask_mod):
        if isinstance(mod, Refused):
            reasons.add(mod.complaint)
    if any(operands.get(key) is None for key in ("q", "k", "v")):
        reasons.raise_if_any()
    check_dtypes(reasons, operands)
    check_devices(reasons, operands)
    shapes = {key: x.shape for key, x in operands.items() if x is not None}
    sizes = attention_sizes(reasons, operands)
    if sizes is not None:
        operands = fit_operands(reasons, operands, sizes)
    reasons.raise_if_any()
    assert sizes is not None
    offset = sizes.Nk - sizes.Nq if q_offset is None else int(q_offset)
    if alibi_slopes is not None and abs(offset) > 2**53:
        reasons.add(f"q_offset={offset} is beyond 2**53, where ALiBi's distances are no longer exact")
    groups = fold_operands(operands)
    if len(groups) > 1 and not score_mod is mask_mod is None:
        reasons.add("score_mod and mask_mod need leading axes that one stride can pass through (copy the operands)")
    reasons.raise_if_any()
    assert first_operand is not None
    assert not isinstance(score_mod, Refused) and not isinstance(mask_mod, Refused)
    o_shape = (*shapes["q"][:-1], sizes.dv)
    sides = None if window is None else tuple(None if n is None else int(n) for n in window)
    first, last = band(sizes.Nq, sizes.Nk, causal, offset, sides)
    score = ScoreOptions(
        softcap=softcap is not None,
        alibi=dtype_of(operands.get("alibi_slopes")),
        bias=dtype_of(operands.get("bias")),
        mask=mask is not None,
        score_mod=score_mod,
        mask_mod=mask_mod,
    )
    return AttentionRequest(
        problems=[
            (
                AttentionProblem(
                    B=group.q.shape[0],
                    Hq=sizes.Hq,
                    Hk=sizes.Hk,
                    Nq=sizes.Nq,
                    Nk=sizes.Nk,
                    d=sizes.d,
                    dv=sizes.dv,
                    dtype=group.q.dtype,
                    scale=1 / math.sqrt(sizes.d) if scale is None else float(scale),
                    first=first,
                    last=last,
                    q_offset=offset if score.alibi else 0,
                    softcap=None if softcap is None else float(softcap),
                    score=score,
                    vector=all(on_16_bytes(x) for x in (group.q, group.k, group.v, group.do, group.o) if x is not None),
                    deterministic=bool(deterministic),
                    device=group.q.device,
                ),
                group,
            )
            for group in groups
        ],
        q=first_operand,
        shapes={**shapes, "o": o_shape, "lse": o_shape[:-1]},
        nothing_seen=0 in (*sizes.lead, sizes.Hq, sizes.Nq, sizes.Nk),
    )


def dtype_of(x: Array | None) -> str | None:
    """The dtype's name, None for no array."""
    return None if x is None else x.dtype


def check_positions(reasons: Reasons, causal: Any, q_offset: Any, window: Any) -> None:
    """The options that say which keys a query sees."""
    if not isinstance(causal, bool | np.bool_):
        reasons.add(f"causal={causal!r} (needs True or False)", TypeError)
    if q_offset is not None and not is_int(q_offset):
        reasons.add(f"q_offset={q_offset!r} (needs an int or None)", TypeError)
    if window is None:
        return
    pair = isinstance(window, Sequence) and len(window) == 2
    if not pair or any(side is not None and not is_int(side) for side in window):
        reasons.add(f"window={window!r} (needs a pair (left, right), each an int or None for no limit)", TypeError)
    elif any(side is not None and side < 0 for side in window):
        reasons.add(f"window={window!r} (each side needs an int >= 0, or None for no limit)")


def check_number(reasons: Reasons, option: str, x: Any, real: str, above_zero: bool = False) -> None:
    """An option that is a number or None, and stays finite (and above 0) in the dtype of arithmetic."""
    if x is None:
        return
    limits = np.finfo(real)
    low, high = float(limits.tiny if above_zero else limits.min), float(limits.max)
    needs = f"needs a finite {real}{' above 0' if above_zero else ''}, or None"
    if not is_real(x):
        reasons.add(f"{option}={x!r} ({needs})", TypeError)
    elif not low <= (int(x) if isinstance(x, Integral) else float(x)) <= high:
        reasons.add(f"{option}={x!r} ({needs})")


def is_int(x: Any) -> bool:
    return isinstance(x, Integral) and not isinstance(x, bool)


def is_real(x: Any) -> bool:
    return isinstance(x, Real) and not isinstance(x, bool)


def check_dtypes(reasons: Reasons, operands: dict[str, Array | None]) -> None:
    """One float dtype for q, k, v (do, o); floats for slopes and bias; bool for the mask; LSE's dtype for lse, dlse."""
    q = operands["q"]
    assert q is not None
    floats, lse = (FLOATS, f"one of {', '.join(FLOATS)}"), real_of(q.dtype)
    same = ((q.dtype,), f"{q.dtype}, as q is") if q.dtype in FLOATS else floats
    rules: dict[str, tuple[Sequence[str], str]] = {"q": floats}
    rules |= dict.fromkeys(("k", "v", "do", "o"), same)
    rules |= dict.fromkeys(("alibi_slopes", "bias"), floats)
    rules |= dict.fromkeys(("lse", "dlse"), ((lse,), f"{lse} for {q.dtype} operands"))
    rules |= {"mask": (("bool",), "bool; True lets a query see a key")}
    for key, (allowed, needs) in rules.items():
        x = operands.get(key)
        if x is not None and x.dtype not in allowed:
            reasons.add(f"{key} is {x.dtype} (needs {needs})", TypeError)


def check_devices(reasons: Reasons, operands: dict[str, Array | None]) -> None:
    """All operands in one place."""
    places = {key: place(x) for key, x in operands.items() if x is not None}
    if len(set(places.values())) > 1:
        reasons.add("operands lie in different places: " + ", ".join(f"{k} on {p}" for k, p in places.items()))


def place(x: Array) -> str:
    """Where an array lies, in words."""
    return "the host" if x.device is None else f"GPU {x.device}"


@dataclass(frozen=True)
class Sizes:
    """The sizes of an attention call, with its leading axes as they are."""

    lead: tuple[int, ...]
    Hq: int
    Hk: int
    Nq: int
    Nk: int
    d: int
    dv: int


def attention_sizes(reasons: Reasons, operands: dict[str, Array | None]) -> Sizes | None:
    """The sizes that q, k and v agree on; None, and reasons, where they do not."""
    q, k, v = (operands[key] for key in ("q", "k", "v"))
    assert q is not None and k is not None and v is not None
    before = len(reasons.found)
    ranks = [len(x.shape) for x in (q, k, v)]
    if min(ranks) < 2 or len(set(ranks)) > 1:
        reasons.add(
            f"q, k, v have {ranks[0]}, {ranks[1]}, {ranks[2]} axes (need (N, d), (H, N, d) or (..., H, N, d) each)"
        )
        return None
    qs, ks, vs = (x.shape if ranks[0] > 2 else (1, *x.shape) for x in (q, k, v))
    (*lead, Hq, Nq, d), (*k_lead, Hk, Nk, dk), (*v_lead, Hv, Nv, dv) = qs, ks, vs
    if not lead == k_lead == v_lead:
        reasons.add(f"leading axes differ: q {q.shape}, k {k.shape}, v {v.shape}")
    if Hk != Hv:
        reasons.add(f"k has {Hk} heads, v has {Hv}")
    elif Hk == 0 or Hq % Hk:
        reasons.add(f"{Hq} query heads do not divide into {Hk} KV heads (Hq must be a multiple of Hk)")
    if Nk != Nv:
        reasons.add(f"k has {Nk} keys, v has {Nv}")
    if d != dk:
        reasons.add(f"q has head dimension {d}, k has {dk}")
    if 0 in (d, dk, dv):
        reasons.add(f"head dimensions {d}, {dk}, {dv} of q, k, v must be at least 1")
    return None if len(reasons.found) > before else Sizes(tuple(lead), Hq, Hk, Nq, Nk, d, dv)


def fit_operands(reasons: Reasons, operands: dict[str, Array | None], n: Sizes) -> dict[str, Array | None]:
    """Every operand with its full shape: a head axis for 2-D ones, bias, mask and slopes broadcast."""
    q_shape = (*n.lead, n.Hq, n.Nq)
    exact = {
        "q": (*q_shape, n.d), "k": (*n.lead, n.Hk, n.Nk, n.d), "v": (*n.lead, n.Hk, n.Nk, n.dv),
        "do": (*q_shape, n.dv), "o": (*q_shape, n.dv), "lse": q_shape, "dlse": q_shape,
    }  # fmt: skip
    broadcast = {"bias": (*q_shape, n.Nk), "mask": (*q_shape, n.Nk), "alibi_slopes": (*n.lead, n.Hq)}
    flat = len(operands["q"].shape) == 2  # type: ignore[union-attr]
    fitted: dict[str, Array | None] = {}
    for key, x in operands.items():
        if x is None:
            continue
        want = exact.get(key) or broadcast[key]
        if flat and key in exact and x.shape == want[1:]:
            x = x[None]
        try:
            if key in exact and x.shape != want:
                raise ValueError
            fitted[key] = x.broadcast(want)
        except ValueError:
            needs = f"to broadcast to {want}" if key in broadcast else want[1:] if flat else want
            reasons.add(f"{key} has shape {x.shape} (needs {needs})")
    return fitted


def fold_operands(operands: dict[str, Array | None]) -> list[Operands]:
    """Operands with their leading axes folded into one batch axis; several groups where strides forbid a single one."""
    trailing = {"alibi_slopes": 1, "lse": 2, "dlse": 2}
    keys = list(operands)
    arrays = []
    for key in keys:
        x = operands[key]
        assert x is not None
        missing = 3 - trailing.get(key, 3)  # so that all arrays share the leading axes, then three of their own
        arrays.append(x.strided((*x.shape, *[1] * missing), (*x.strides, *[1] * missing)))
    groups = []
    for folded in fold_leading([x if len(x.shape) > 3 else x[None] for x in arrays], keep=3):
        group = {}
        for key, x in zip(keys, folded, strict=True):
            assert x is not None
            axes = 1 + trailing.get(key, 3)
            group["slopes" if key == "alibi_slopes" else key] = x.strided(x.shape[:axes], x.strides[:axes])
        groups.append(Operands(**group))
    return groups


def on_16_bytes(x: Array) -> bool:
    """Can every row of a (B, H, N, d) array be read 16 bytes at a time, in whole groups of four elements?"""
    rows = all(n == 1 or s * x.itemsize % 16 == 0 for n, s in zip(x.shape[:-1], x.strides[:-1], strict=True))
    columns = x.shape[-1] % 4 == 0 and x.strides[-1] == 1
    return rows and columns and (x.address % 16 == 0 or 0 in x.shape)


def fits_boxes(x: Array) -> bool:
    """Can boxes of an array be copied? Its last axis is contiguous, and rows start a multiple of 16 bytes apart.

    Axes that are repeated or go backwards cannot; where there is nothing, everything can.
    """
    if 0 in x.shape:
        return True
    steps = [s * x.itemsize for n, s in zip(x.shape[:-1], x.strides[:-1], strict=True) if n > 1]
    contiguous = x.shape[-1] == 1 or x.strides[-1] == 1
    return contiguous and x.address % ALIGNED == 0 and all(s > 0 and s % ALIGNED == 0 for s in steps)


@dataclass(frozen=True)
class MergeRequest:
    """A validated merge: groups of (o1 (B, N, dv), lse1 (B, N), o2, lse2), and the results' shapes and LSE's dtype."""

    groups: list[tuple[Array, Array, Array, Array]]
    o1: Array
    o_shape: tuple[int, ...]
    lse_shape: tuple[int, ...]
    real: str


def merge_request(reasons: Reasons, o1: Any, lse1: Any, o2: Any, lse2: Any) -> MergeRequest:
    """Check a call of `merge` and fold its operands to one batch axis; one error with every reason."""
    given = {"o1": o1, "lse1": lse1, "o2": o2, "lse2": lse2}
    arrays = {key: reasons.read(key, x) for key, x in given.items()}
    if any(x is None for x in arrays.values()):
        reasons.raise_if_any()
    x1, l1, x2, l2 = (x for x in arrays.values() if x is not None)
    real = real_of(x1.dtype)
    if x1.dtype not in FLOATS:
        reasons.add(f"o1 is {x1.dtype} (needs one of {', '.join(FLOATS)})", TypeError)
    for key, x, want in (("lse1", l1, real), ("o2", x2, x1.dtype), ("lse2", l2, real)):
        if x.dtype != want and x1.dtype in FLOATS:
            reasons.add(f"{key} is {x.dtype} (needs {want} where o1 is {x1.dtype})", TypeError)
    check_devices(reasons, arrays)
    if len(x1.shape) < 2:
        reasons.add(f"o1 has shape {x1.shape} (needs (..., N, dv))")
    for key, x, shape in (("lse1", l1, x1.shape[:-1]), ("o2", x2, x1.shape), ("lse2", l2, x1.shape[:-1])):
        if x.shape != shape:
            reasons.add(f"{key} has shape {x.shape} (needs {shape})")
    reasons.raise_if_any()
    columns = [x if x in (x1, x2) else x.strided((*x.shape, 1), (*x.strides, 1)) for x in (x1, l1, x2, l2)]
    groups = []
    for a, b, c, d in fold_leading([x if len(x.shape) > 2 else x[None] for x in columns], keep=2):
        assert a is not None and b is not None and c is not None and d is not None
        groups.append((a, b.strided(b.shape[:2], b.strides[:2]), c, d.strided(d.shape[:2], d.strides[:2])))
    return MergeRequest(groups, x1, x1.shape, x1.shape[:-1], real)
