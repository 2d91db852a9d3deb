"""What is timed: a cell is one problem, which every rung and every peer solves on the same arrays."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import Any

from numba_flash.arrays import ITEMSIZE
from numba_flash.ladder import BACKWARD, FORWARD, HALVES, LADDER, MATMUL, SOFTMAX, Rung, fastest_first
from numba_flash.specimen import specimen

TOKENS, HIDDEN = 16384, 1024  # of attention: a batch of TOKENS / N, with HIDDEN / d heads
PAPERS_HIDDEN = 2048  # of the curves, as in the FlashAttention papers
SOFTMAX_ELEMENTS = 2**26
LENGTHS = (1024, 4096, 16384)  # of the curves of speed against N
EVERYONE, FAST, FASTEST = "everyone", "fast", "fastest"
CEILING, COPY = "ceiling", "copy"  # what is compared with: not an operation of the library
LABELS = {FORWARD: "forward", BACKWARD: "backward", MATMUL: "matmul", SOFTMAX: "softmax"}


@dataclass(frozen=True)
class Cell:
    """One problem.

    N : positions of attention, rows and columns of both matrices of a product, or columns of a softmax
    d, causal : of attention, else None
    who : is timed. EVERYONE; FAST: of our rungs, only those that "auto" takes; FASTEST: of those the ones for 16 bits
        alone, or else the first, and no peer that is slow to run or to prepare
    hidden : columns of all heads together
    """

    operation: str
    dtype: str
    N: int
    d: int | None = None
    causal: bool | None = None
    who: str = EVERYONE
    hidden: int = HIDDEN

    @property
    def label(self) -> str:
        """The operation in a word."""
        return LABELS[self.operation]

    @property
    def unit(self) -> str:
        """Of `rate`: softmax waits for memory, everything else for arithmetic."""
        return "GB/s" if self.operation == SOFTMAX else "TFLOP/s"

    @property
    def batch(self) -> int:
        """Of attention."""
        return TOKENS // self.N

    @property
    def heads(self) -> int:
        """Of attention."""
        assert self.d is not None
        return self.hidden // self.d

    @property
    def score_bytes(self) -> int:
        """What the score matrix of attention would take, in float32 for 16-bit operands."""
        return self.batch * self.heads * self.N**2 * max(4, ITEMSIZE[self.dtype])

    def problem(self) -> Any:
        """As a rung is told of it."""
        if self.operation == MATMUL:
            return specimen(MATMUL, self.dtype, N=self.N)
        if self.operation == SOFTMAX:
            return specimen(SOFTMAX, self.dtype, N=self.N, M=SOFTMAX_ELEMENTS // self.N)
        assert self.d is not None
        last = {"last": 0} if self.causal else {}
        return specimen(self.operation, self.dtype, N=self.N, d=self.d, H=self.heads, B=self.batch, **last)

    @property
    def work(self) -> float:
        """Operations as the papers count them: 4*N*N*d a head, half of that if causal; softmax: bytes in and out."""
        if self.operation == SOFTMAX:
            return 2 * SOFTMAX_ELEMENTS * ITEMSIZE[self.dtype]
        if self.operation == MATMUL:
            return 2 * self.N**3
        forward = 4 * self.batch * self.hidden * self.N**2 / (2 if self.causal else 1)
        return forward if self.operation == FORWARD else 2.5 * forward

    def rate(self, milliseconds: float) -> float:
        """In `unit`."""
        return self.work / milliseconds / (1e6 if self.operation == SOFTMAX else 1e9)


def ladder_plan(dtypes: Sequence[str] | None = None, quick: bool = False) -> list[Cell]:
    """The cells of the ladder: the whole grid in `dtypes`; by default in float32, and a little float64 and bfloat16."""
    if quick:
        return [cell for dtype in dtypes or ["float32"] for cell in cells(dtype, (64,), (1024,), (False,), (1024,))]
    whole = [c for t in dtypes or ["float32"] for c in cells(t, (64, 128), (2048, 4096), (False, True), (4096, 8192))]
    products = [Cell(MATMUL, "bfloat16", n, who=FAST) for n in (4096, 8192)]
    tensor_cores = attention_cells("bfloat16", (64, 128), (4096,), (False,), FAST)
    others = [*attention_cells("float64", (64,), (2048, 4096), (False,), FAST), *products, *tensor_cores]
    return whole if dtypes else whole + others


def lengths_plan(dtypes: Sequence[str] | None = None, quick: bool = False) -> list[Cell]:
    """The cells of speed against N, by default in bfloat16, the papers' grid."""
    lengths, depths = (LENGTHS[:1], (64,)) if quick else (LENGTHS, (64, 128, 256))
    grid = [c for t in dtypes or ["bfloat16"] for c in attention_cells(t, depths, lengths, (False, True), FASTEST)]
    return [replace(cell, hidden=PAPERS_HIDDEN) for cell in grid]


def cells(
    dtype: str, depths: Sequence[int], lengths: Sequence[int], causal: Sequence[bool], products: Sequence[int]
) -> list[Cell]:
    """Softmax, matrix products and attention; everyone at the smallest depth and size only."""
    softmaxes = [Cell(SOFTMAX, dtype, N) for N in lengths]
    matmuls = [Cell(MATMUL, dtype, n, who=EVERYONE if n == products[0] else FAST) for n in products]
    first = attention_cells(dtype, depths[:1], lengths[:1], causal)
    rest = [c for c in attention_cells(dtype, depths, lengths, causal, FAST) if not same_problem(c, first)]
    return [*softmaxes, *matmuls, *first, *rest]


def attention_cells(
    dtype: str, depths: Sequence[int], lengths: Sequence[int], causal: Sequence[bool], who: str = EVERYONE
) -> list[Cell]:
    """Forward and backward over a grid."""
    grid = [(d, N, rule, pass_) for d in depths for N in lengths for rule in causal for pass_ in (FORWARD, BACKWARD)]
    return [Cell(pass_, dtype, N, d, rule, who) for d, N, rule, pass_ in grid]


def same_problem(cell: Cell, others: Sequence[Cell]) -> bool:
    """Is it among the others, whichever rungs these time?"""
    return (cell.d, cell.N) in {(other.d, other.N) for other in others}


def rungs_for(cell: Cell, patterns: Collection[str] = ()) -> list[Rung]:
    """The rungs that a cell times: those of its operation that run on a GPU and match a pattern, if there are any."""
    rungs = [r for r in LADDER if r.on_gpu and r.operation == cell.operation and cell.dtype in r.dtypes]
    chosen = [r for r in rungs if not patterns or matches(r, patterns)]
    if cell.who == EVERYONE:
        return chosen
    fast = [r for r in fastest_first(cell.operation) if r in chosen]
    if cell.who == FASTEST:
        return [r for r in fast if r.dtypes == HALVES] or fast[:1]
    return fast


def matches(rung: Rung, patterns: Collection[str]) -> bool:
    """Does its name begin with one of the patterns (in which * and ? stand for anything)?"""
    return any(fnmatch(rung.name, f"{pattern}*") for pattern in patterns)
