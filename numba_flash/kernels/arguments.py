"""What the launches of all attention rungs share: tile sizes that fit, and the tail of the argument list."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from numba_flash.arrays import ITEMSIZE, Array
from numba_flash.config import Device, Tiles
from numba_flash.problem import AttentionProblem, Operands, ScoreOptions
from numba_flash.tiling import cdiv

WIDTHS = (32, 64, 128, 256)  # padded head dimensions that kernels are made for
LARGEST_GRID = 2**31 - 1
SMALLEST_TILE = 4  # rows of the smallest query or key block in any table
NO_STRIDES = (0, 0, 0, 0)

Table = Mapping[tuple[int, int], Sequence[Tiles]]


def padded_width(n: int) -> int:
    """The smallest head dimension that kernels are made for and that holds n."""
    return next(width for width in WIDTHS if n <= width)


def choose_tiles(
    table: Table, shared_bytes: Callable[[Tiles, int], int], problem: AttentionProblem, device: Device
) -> Tiles | None:
    """The first tile sizes of the table that fit the problem's head dimensions and the device's shared memory."""
    itemsize = ITEMSIZE[problem.real]
    for tiles in table[itemsize, padded_width(max(problem.d, problem.dv))]:
        narrowest = 4 * tiles.CG  # four columns a thread
        fitted = replace(tiles, D=max(padded_width(problem.d), narrowest), DV=max(padded_width(problem.dv), narrowest))
        if shared_bytes(fitted, itemsize) <= device.shared_bytes:
            return fitted
    return None


def reasons_against(
    table: Table, shared_bytes: Callable[[Tiles, int], int], problem: AttentionProblem, device: Device
) -> list[str]:
    """Why no tile sizes of the table can solve the problem on the device; empty if some can."""
    widest = WIDTHS[-1]
    reasons = [f"{name}={n} > {widest}" for name, n in (("d", problem.d), ("dv", problem.dv)) if n > widest]
    reasons += grid_reasons(
        problem.B * problem.Hq * max(cdiv(problem.Nq, SMALLEST_TILE), cdiv(problem.Nk, SMALLEST_TILE))
    )
    if not reasons and choose_tiles(table, shared_bytes, problem, device) is None:
        reasons.append(f"its tiles need more than the {device.shared_bytes} bytes of shared memory of {device.name}")
    return reasons


def grid_reasons(blocks: int) -> list[str]:
    """Why a grid of so many blocks cannot be launched; empty if it can."""
    return [f"{blocks} blocks > {LARGEST_GRID}"] if blocks > LARGEST_GRID else []


def strides_of(x: Array | None) -> tuple[int, ...]:
    """A kernel's strides argument: those of `x`, zeros for no array."""
    return NO_STRIDES if x is None else (*x.strides, *NO_STRIDES)[:4]


def option_bytes(score: ScoreOptions) -> tuple[int, int]:
    """Bytes that score options read: of slopes, for a thread and a head; of bias and mask, for a pair of a block."""
    slope = ITEMSIZE[score.alibi] if score.alibi else 0
    return slope, (ITEMSIZE[score.bias] if score.bias else 0) + (ITEMSIZE["bool"] if score.mask else 0)


def score_arguments(problem: AttentionProblem, x: Operands) -> tuple[Any, ...]:
    """The tail of every attention kernel's arguments.

    bias, its strides, mask, its strides, slopes, their strides, sizes (Hq, Hk, Nq, Nk, d, dv), band (first, last,
    q_offset), scale, softcap.
    """
    real = np.dtype(problem.real).type
    return (
        x.bias, strides_of(x.bias), x.mask, strides_of(x.mask), x.slopes, strides_of(x.slopes),
        (problem.Hq, problem.Hk, problem.Nq, problem.Nk, problem.d, problem.dv),
        (problem.first, problem.last, problem.q_offset),
        real(problem.scale), real(problem.softcap or 0),
    )  # fmt: skip
