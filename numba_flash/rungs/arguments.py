"""What the launches of all attention rungs share: tile sizes that fit, and the tail of the argument list."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from numba_flash.arrays import ITEMSIZE, Array
from numba_flash.config import Adds, Device, GradientTiles, Loads, Stores, Tiles
from numba_flash.matmul_problem import MatmulProblem
from numba_flash.problem import AttentionProblem, Operands, ScoreOptions
from numba_flash.tiling import cdiv, count_query_blocks

WIDTHS = (32, 64, 128, 256)  # padded head dimensions that kernels are made for
LARGEST_GRID = 2**31 - 1
SMALLEST_TILE = 4  # rows of the smallest query or key block in any table
NO_STRIDES = (0, 0, 0, 0)
CACHED = 3 / 4  # of the cache, for what blocks of several heads read again and again

AnyTiles = TypeVar("AnyTiles", Tiles, GradientTiles)


def padded_width(n: int) -> int:
    """The smallest head dimension that kernels are made for and that holds n."""
    return next(width for width in WIDTHS if n <= width)


def choose_tiles(
    table: Mapping[tuple[int, int], Sequence[AnyTiles]],
    shared_bytes: Callable[[AnyTiles, int], int],
    problem: AttentionProblem,
    device: Device,
    crowded: bool = False,
) -> AnyTiles | None:
    """The first tile sizes of the table that fit the problem, its head dimensions and the device's shared memory.

    The `full` ones are left out if the kernel needs more registers than the plainest one: for score options, element
    loads, loads that pass through registers since there are no copies, or because it is `crowded` in a way that only
    its rung knows.
    """
    itemsize = ITEMSIZE[problem.real]
    plainest = folds_scale(problem) and problem.vector and device.compute_capability >= (8, 0)
    for tiles in table[itemsize, padded_width(max(problem.d, problem.dv))]:
        if tiles.full and (crowded or not plainest):
            continue
        fitted = fit_tiles(tiles, problem.d, problem.dv)
        if shared_bytes(fitted, itemsize) <= device.shared_bytes:
            return fitted
    return None


def fit_tiles(tiles: AnyTiles, d: int, dv: int) -> AnyTiles:
    """The same tile sizes for these head dimensions."""
    narrowest = 4 * tiles.CG  # four columns a thread
    return replace(tiles, D=max(padded_width(d), narrowest), DV=max(padded_width(dv), narrowest))


def choose_mma_tiles(
    table: Mapping[tuple[int, int], Sequence[AnyTiles]],
    shared_bytes: Callable[[AnyTiles, int], int],
    problem: AttentionProblem,
    device: Device,
) -> AnyTiles:
    """The same on tensor cores, where copies of parts of 16 bytes need registers, for what `why_not` lets pass."""
    crowded = kind_of_parts(problem, problem.d, problem.dv) == "parts"
    tiles = choose_tiles(table, shared_bytes, problem, device, crowded)
    assert tiles is not None
    return tiles


def plain_tiles(table: Mapping[tuple[int, int], Tiles], problem: AttentionProblem) -> Tiles:
    """The tile sizes of a table of one choice each, made to need no more shared memory than every device has."""
    return table[ITEMSIZE[problem.real], padded_width(max(problem.d, problem.dv))]


def reasons_against(
    table: Mapping[tuple[int, int], Sequence[AnyTiles]],
    shared_bytes: Callable[[AnyTiles, int], int],
    problem: AttentionProblem,
    device: Device,
) -> list[str]:
    """Why no tile sizes of the table can solve the problem on the device; empty if some can."""
    reasons = width_reasons(problem) + grid_reasons(
        problem.B * problem.Hq * max(cdiv(problem.Nq, SMALLEST_TILE), cdiv(problem.Nk, SMALLEST_TILE))
    )
    if not reasons and choose_tiles(table, shared_bytes, problem, device) is None:
        reasons.append(f"its tiles need more than the {device.shared_bytes} bytes of shared memory of {device.name}")
    return reasons


def grid_reasons(blocks: int) -> list[str]:
    """Why a grid of so many blocks cannot be launched; empty if it can."""
    return [f"{blocks} blocks > {LARGEST_GRID}"] if blocks > LARGEST_GRID else []


def mma_reasons(device: Device) -> list[str]:
    """Why a device cannot run kernels for the tensor cores of sm_80; empty if it can."""
    return [f"this GPU is {device.arch} (needs sm_80 or later)"] if device.compute_capability < (8, 0) else []


def wgmma_reasons(device: Device) -> list[str]:
    """Why a device cannot run kernels for warpgroups; empty if it can."""
    return [] if device.compute_capability == (9, 0) else [f"this GPU is {device.arch} (needs sm_90a)"]


def kind_of_loads(problem: AttentionProblem | MatmulProblem, device: Device) -> Loads:
    """How tiles come from global memory: see `Loads`."""
    if not problem.vector:
        return "elements"
    same = problem.dtype == problem.real  # 16-bit floats become float32 on their way
    return "copies" if same and device.compute_capability >= (8, 0) else "vectors"


def kind_of_parts(problem: AttentionProblem | MatmulProblem, *widths: int) -> Loads:
    """How rows of 16-bit numbers of these widths come from global memory to shared tiles of the same."""
    if not problem.vector:
        return "elements"
    return "copies" if all(width % 8 == 0 for width in widths) else "parts"


def kind_of_stores(width: int) -> Stores:
    """How rows of so many 16-bit numbers, one behind the other, go from fragments to global memory."""
    return "chunks" if width % 8 == 0 else "pairs" if width % 2 == 0 else "elements"


def kind_of_adds(device: Device) -> Adds:
    """How sums of float32 are added to in global memory."""
    return "vectors" if device.compute_capability >= (9, 0) else "scalars"


def folds_scale(problem: AttentionProblem) -> bool:
    """May the forward pass leave the scale to the exponent, e^(scale*(s - m))? m is then the largest product."""
    return problem.score == ScoreOptions() and problem.scale > 0


def heads_together(problem: AttentionProblem, device: Device) -> int:
    """Of how many heads the longest rows start first (`longest_first`): as many as leave K and V in the cache."""
    nbytes = problem.Nk * (problem.d + problem.dv) * ITEMSIZE[problem.dtype]  # that query heads of a group share
    return many_together(problem, device, nbytes) * (problem.Hq // problem.Hk)


def many_together(problem: AttentionProblem, device: Device, nbytes: int) -> int:
    """How many KV heads may start together that keep so many bytes each in the cache.

    One head follows another where no row's keys end before the last one: all blocks take as long. Not where they add to
    dQ in turns: those of one head, started together, would wait for one another.
    """
    several = problem.last < problem.Nk or problem.deterministic
    fitting = int(CACHED * device.l2_bytes) // max(1, nbytes) if several else 1
    return in_equal_groups(problem.B * problem.Hk, fitting)


def keys_together(problem: AttentionProblem, device: Device, D: int) -> int:
    """Of how many KV heads the first keys, which meet most rows, start first: as many as leave Q, dO, dQ in cache.

    dQ is a sum in float32, D wide.
    """
    row = (problem.d + problem.dv) * ITEMSIZE[problem.dtype] + D * ITEMSIZE[problem.real]
    return many_together(problem, device, problem.Hq // problem.Hk * problem.Nq * row)


def in_equal_groups(heads: int, most: int) -> int:
    """How many heads make a group, `most` or, if that makes equal groups, a few less."""
    most = max(1, min(most, heads))
    return next((n for n in range(most, most // 2, -1) if heads % n == 0), most)


def plain_reasons(problem: AttentionProblem, blocks: int) -> list[str]:
    """Why a rung before flash2 cannot solve the problem in a grid of so many blocks; empty if it can."""
    score = problem.score
    options = {"softcap": score.softcap, "alibi_slopes": score.alibi, "bias": score.bias, "mask": score.mask}
    options |= {"score_mod": score.score_mod is not None, "mask_mod": score.mask_mod is not None}
    reasons = [f"{name} needs flash2 or a later rung" for name, given in options.items() if given]
    return reasons + width_reasons(problem) + grid_reasons(blocks)


def width_reasons(problem: AttentionProblem) -> list[str]:
    """Which head dimensions are wider than any kernel's; empty if none is."""
    return [f"{name}={n} > {WIDTHS[-1]}" for name, n in (("d", problem.d), ("dv", problem.dv)) if n > WIDTHS[-1]]


def visited_tiles(problem: AttentionProblem, t: Tiles) -> int:
    """How many tiles of S have a pair that the band of a problem keeps, over all heads."""
    p = problem
    return p.B * p.Hq * count_query_blocks(t.Br, t.Bc, p.Nq, p.Nk, p.first, p.last)


def strides_of(x: Array | None) -> tuple[int, ...]:
    """A kernel's strides argument: those of `x`, zeros for no array."""
    return NO_STRIDES if x is None else (*x.strides, *NO_STRIDES)[:4]


def option_bytes(score: ScoreOptions) -> tuple[int, int]:
    """Bytes that score options read: of slopes, for a thread and a head; of bias and mask, for a pair of a block."""
    slope = ITEMSIZE[score.alibi] if score.alibi else 0
    return slope, (ITEMSIZE[score.bias] if score.bias else 0) + (ITEMSIZE["bool"] if score.mask else 0)


def read_columns(problem: AttentionProblem, t: Tiles, device: Device) -> tuple[int, int]:
    """How many columns of Q, K and of V, dO a whole tile reads: copies leave out the ones beyond d and dv."""
    return (problem.d, problem.dv) if kind_of_loads(problem, device) == "copies" else (t.D, t.DV)


def score_arguments(problem: AttentionProblem, x: Operands) -> tuple[Any, ...]:
    """The tail of every attention kernel's arguments.

    bias, its strides, mask, its strides, slopes, their strides, sizes (Hq, Hk, Nq, Nk, d, dv), band (first, last,
    q_offset), scale, softcap, one.
    """
    real = np.dtype(problem.real).type
    return (
        x.bias, strides_of(x.bias), x.mask, strides_of(x.mask), x.slopes, strides_of(x.slopes),
        (problem.Hq, problem.Hk, problem.Nq, problem.Nk, problem.d, problem.dv),
        (problem.first, problem.last, problem.q_offset),
        real(problem.scale), real(problem.softcap or 0), real(1),
    )  # fmt: skip


def plain_arguments(problem: AttentionProblem) -> tuple[Any, ...]:
    """The tail of the arguments of an attention kernel before flash2.

    sizes (B, Hq, Hk, Nq, Nk, d, dv), band (first, last), scale.
    """
    p = problem
    return (p.B, p.Hq, p.Hk, p.Nq, p.Nk, p.d, p.dv), (p.first, p.last), np.dtype(p.real).type(p.scale)
