"""The tile sizes that are worth trying for a rung, and where its module keeps those that it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from numba_flash.config import (
    GradientTiles,
    MatmulTiles,
    MmaTiles,
    Tiles,
    WarpgroupGradientTiles,
    WarpgroupTiles,
    WgmmaTiles,
)
from numba_flash.rungs import flash3_backward, flash3_forward
from numba_flash.rungs.arguments import padded_width
from numba_flash.testing.tiles import (
    broken,
    forward_rules,
    fragment_rules,
    gradient_rules,
    key_rules,
    matmul_rules,
    mma_rules,
    warpgroup_gradient_rules,
    warpgroup_rules,
    wgmma_rules,
)

THREADS = (64, 512)  # of a block: fewer cannot hide what they wait for, more leave each too few registers
SUMS = 160  # that a thread can keep of its 255 registers, where it also needs operands and addresses
MORE_SUMS = 224  # on tensor cores, whose operands are few
ADDRESSES = 24  # registers that a thread of a warpgroup needs besides


@dataclass(frozen=True)
class Space:
    """What can be chosen for a rung.

    table : the name, in its module, of the tile sizes that it takes
    candidates : from a problem, tile sizes that its kernels can be made with
    """

    table: str
    candidates: Callable[[Any], Iterator[Any]]


def usable(tiles: Any, sums: float, rules: dict[str, bool], most: int = SUMS) -> bool:
    """Can kernels be made with these, and may they be fast?"""
    return not broken(rules) and THREADS[0] <= tiles.threads <= THREADS[1] and sums <= most


def forward(problem: Any) -> Iterator[Tiles]:
    """For flash2_forward: S and O are kept in registers."""
    D, DV = padded_width(problem.d), padded_width(problem.dv)
    sizes = (32, 64, 128), (16, 32, 64, 128), (4, 8), (4, 8, 16, 32)
    for Br, Bc, rows, CG, (blocks, tight) in product(*sizes, ((1, False), (2, False), (2, True), (3, True))):
        t = Tiles(Br, Bc, D, DV, rows, CG, blocks, full=True, tight=tight)
        if usable(t, rows * (Bc + DV) / CG, forward_rules(t)):
            yield t


def keys(problem: Any) -> Iterator[Tiles]:
    """For flash2_backward: S, dP, dK and dV are kept in registers."""
    D, DV = padded_width(problem.d), padded_width(problem.dv)
    for Br, Bc, rows, CG, blocks in product((16, 32, 64, 128), (32, 64, 128), (1, 2, 4), (8, 16, 32), (1, 2)):
        t = Tiles(Br, Bc, D, DV, rows, CG, blocks, full=True)
        if usable(t, 2 * rows * Bc / CG + Bc / t.RG * (D + DV) / CG, key_rules(t)):
            yield t


def fragments(problem: Any) -> Iterator[Tiles]:
    """For flash2_mma_forward: S, P in 16 bits, and O are kept in registers."""
    D, DV = padded_width(problem.d), padded_width(problem.dv)
    sizes = (64, 128, 192), (32, 64, 96, 128), (2, 4)
    for Br, Bc, rows, blocks, tight in product(*sizes, (1, 2, 3), (False, True)):
        t = Tiles(Br, Bc, D, DV, rows, 4, blocks, tight=tight)
        if usable(t, rows * (1.5 * Bc + DV) / 4, fragment_rules(t), MORE_SUMS):
            yield t


def key_fragments(problem: Any) -> Iterator[GradientTiles]:
    """For flash2_mma_backward: S, dP, dK and dV are kept in registers."""
    D, DV = padded_width(problem.d), padded_width(problem.dv)
    sizes, groups = ((32, 64, 128), (32, 64, 128)), ((1, 2, 4, 8), (1, 2, 4))
    for Br, Bc, KG, QG, stages, blocks in product(*sizes, *groups, (1, 2), (1, 2)):
        t = GradientTiles(Br, Bc, D, DV, KG, QG, stages, blocks, full=True)
        if usable(t, (2 * t.WM * t.WN + t.WM * (D + DV) / QG) / 32, gradient_rules(t), MORE_SUMS):
            yield t


def registers(problem: Any) -> Iterator[MatmulTiles]:
    """For matmul_registers: a piece of C."""
    for BM, BN, BK, TM, TN in product((64, 128, 256), (64, 128, 256), (8, 16, 32), (8, 16), (4, 8, 16)):
        t = MatmulTiles(BM, BN, BK, TM, TN)
        if usable(t, TM * TN, matmul_rules(t)):
            yield t


def warps(problem: Any) -> Iterator[MmaTiles]:
    """For matmul_mma: a warp's fragments of C."""
    sides, shares = ((64, 128, 256), (128, 256)), ((32, 64), (32, 64))
    for BM, BN, BK, WM, WN, stages in product(*sides, (32, 64), *shares, (2, 3, 4, 5)):
        t = MmaTiles(BM, BN, BK, WM, WN, stages)
        if usable(t, WM * WN / 32, mma_rules(t)):
            yield t


def warpgroups(problem: Any) -> Iterator[WarpgroupTiles]:
    """For flash3_forward: S, P in 16 bits, and O are kept in registers."""
    D, DV = flash3_forward.padded(problem.d), flash3_forward.padded(problem.dv)
    for Br, Bc, stages, multiplied, queries in product((128, 192), range(48, 192, 16), (2, 3, 4), (0, 2), (1, 2)):
        t = WarpgroupTiles(Br, Bc, D, DV, stages, full=True, multiplied=multiplied, queries=queries)
        if usable(t, (1.5 * Bc + DV) / 2, warpgroup_rules(t), t.registers[1] - ADDRESSES):
            yield t


def warpgroup_gradients(problem: Any) -> Iterator[WarpgroupGradientTiles]:
    """For flash3_backward: S, dP, P in 16 bits (and dS), dQ, dK and dV are kept in registers."""
    D, DV = flash3_backward.padded(problem.d), flash3_backward.padded(problem.dv)
    for Br, (Bc, QG), stages, direct in product((64, 128), ((64, 1), (128, 1), (64, 2)), (2, 3, 4), (False, True)):
        t = WarpgroupGradientTiles(Br, Bc, D, DV, stages, QG, full=True, direct=direct)
        registers = (1.25 + direct / 4) * t.queries + (D + DV) / QG / 2
        if usable(t, registers, warpgroup_gradient_rules(t), t.registers[1] - ADDRESSES):
            yield t


def consumers(problem: Any) -> Iterator[WgmmaTiles]:
    """For matmul_wgmma: 64 rows of C a warpgroup."""
    for BM, BN, stages, group in product((128, 192), (64, 128, 192, 256), (3, 4, 5, 6), (4, 8, 16)):
        t = WgmmaTiles(BM, BN, stages, group=group)
        if usable(t, BN / 2, wgmma_rules(t), t.registers[1] - ADDRESSES):
            yield t


SPACES = {
    "matmul_registers": Space("CONFIGS", registers),
    "matmul_mma": Space("CONFIGS", warps),
    "matmul_wgmma": Space("CONFIGS", consumers),
    "flash2_forward": Space("CONFIGS", forward),
    "flash2_backward": Space("KEY_CONFIGS", keys),
    "flash2_mma_forward": Space("CONFIGS", fragments),
    "flash2_mma_backward": Space("CONFIGS", key_fragments),
    "flash3_forward": Space("CONFIGS", warpgroups),
    "flash3_backward": Space("CONFIGS", warpgroup_gradients),
}
