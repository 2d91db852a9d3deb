"""Other tile sizes for kernels: tiny ones for the simulator, odd ones for tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib import import_module
from typing import Any
from unittest.mock import patch

from numba_flash.config import (
    APART,
    SHARED_REGISTERS,
    GradientTiles,
    MatmulTiles,
    MmaTiles,
    Tiles,
    WarpgroupGradientTiles,
    WarpgroupTiles,
    WgmmaTiles,
)
from numba_flash.device.products import steps_of
from numba_flash.planners import forget_plans
from numba_flash.rungs.arguments import WIDTHS, fit_tiles


@contextmanager
def other_plans() -> Iterator[None]:
    """Plans made before are not used here, and those made here not later."""
    forget_plans()
    try:
        yield
    finally:
        forget_plans()


@contextmanager
def tiny_tiles() -> Iterator[None]:
    """Run kernels with tiles of about 8 x 8 and blocks of a warp, on tensor cores two: what the simulator runs fast."""
    tiles, key_tiles = Tiles(16, 8, 32, 32, 4, 8), Tiles(8, 16, 32, 32, 2, 8)
    first = (1, 4), Tiles(8, 8, 32, 32, 1, 8), Tiles(8, 8, 32, 32, 1, 4)
    products = matmul_tiles(4, MatmulTiles(16, 16, 4, 8, 4))
    tensor = mma_tiles(MmaTiles(32, 16, 32, 16, 16, stages=3, group=2))
    fragments = fragment_tiles(Tiles(16, 16, 32, 32, 2, 4), GradientTiles(32, 16, 32, 32, 1, 2))
    groups = warpgroup_tiles(WarpgroupTiles(64, 16, 64, 64), WgmmaTiles(64, 64, stages=2, group=2))
    others = products, tensor, fragments, groups, block_threads(8), first_tiles(*first), longest_sum(12)
    with attention_tiles(tiles, key_tiles), ExitStack() as stack:
        for other in others:
            stack.enter_context(other)
        yield


@contextmanager
def longest_sum(keys: int) -> Iterator[None]:
    """Let flash2_forward add up no more terms than so many keys give in one launch."""
    with other_plans(), patch.object(import_module("numba_flash.rungs.flash2_forward"), "LONGEST_SUM", keys):
        yield


@contextmanager
def block_threads(T: int) -> Iterator[None]:
    """Run both softmaxes and matmul_naive in blocks of T threads, a power of 2."""
    with other_plans(), ExitStack() as stack:
        for name in ("softmax_safe", "softmax_online", "matmul_naive"):
            module = import_module(f"numba_flash.rungs.{name}")
            stack.enter_context(patch.object(module, "CONFIGS", [T]))
        yield


Rules = dict[str, bool]


def sums_fit(size: int, depth: int) -> bool:
    """Can `make_multiply_atb` keep so many sums in registers, and cut this depth into whole steps?"""
    return 0 < size <= 128 and depth % steps_of(size) == 0


def common_rules(t: Tiles) -> Rules:
    """What every kernel of flash2 asks of its tile sizes."""
    return {
        "threads are whole warps, at most 1024": t.threads % 32 == 0 and 0 < t.threads <= 1024,
        "row groups come in pairs: `make_place`": t.RG % 2 == 0,
        "every row has an owner": t.rows * t.RG == t.Br,
        "every column has an owner": t.Bc % t.CG == 0,
        "a thread owns runs of four columns of a head": t.D % (4 * t.CG) == 0 == t.DV % (4 * t.CG),
        "rows of P and dS are read in fours": t.Bc % 4 == 0,
    }


def forward_rules(t: Tiles) -> Rules:
    """The same for the forward pass."""
    return common_rules(t) | {
        "a row lives in lanes of one warp": 32 % (APART * t.CG) == 0,
        "a thread owns runs of four rows": t.rows % 4 == 0,
        "S fits": sums_fit(t.rows * t.Bc // t.CG, t.D),
        "O fits": sums_fit(t.rows * t.DV // t.CG, t.Bc),
    }


def query_rules(t: Tiles) -> Rules:
    """The same for dQ in a kernel of its own."""
    return common_rules(t) | {"a row lives in lanes of one warp": 32 % (APART * t.CG) == 0}


def key_rules(t: Tiles) -> Rules:
    """The same for dK, dV and the sum of dQ."""
    height = t.Bc // t.RG
    return common_rules(t) | {
        "every key has an owner": t.Bc % t.RG == 0,
        "dK fits": sums_fit(height * t.D // t.CG, t.Br),
        "dV fits": sums_fit(height * t.DV // t.CG, t.Br),
    }


def matmul_rules(t: MatmulTiles) -> Rules:
    """What matmul_registers asks of its tile sizes."""
    return {
        "every element has an owner": t.BM % t.TM == 0 == t.BN % t.TN,
        "row groups come in pairs: `make_place`": t.BM // t.TM % 2 == 0,
        "a thread owns runs of four rows and columns": t.TM % 4 == 0 == t.TN % 4,
        "eight threads load a row of A together": t.threads % 8 == 0 and 0 < t.threads <= 1024,
        "elements are loaded in fours": t.BK % 4 == 0,
        "C fits": sums_fit(t.TM * t.TN, t.BK),
    }


def fragment_rules(t: Tiles) -> Rules:
    """What flash2 on tensor cores asks of its tile sizes."""
    return {
        "four lanes share a row of a fragment": t.CG == 4,
        "a warp owns 16 rows for every two of a thread": t.rows % 2 == 0 == t.Br % (8 * t.rows) and t.rows > 0,
        "threads are at most 1024": 0 < t.threads <= 1024,
        "keys are the depth of a product, 16 at a time": t.Bc % 16 == 0 < t.Bc,
        "rows of shared tiles are a power of 2 of chunks": t.D & (t.D - 1) == 0 == t.DV & (t.DV - 1),
        "a thread owns whole fragments of a head, in pairs": t.D % 16 == 0 == t.DV % 16,
    }


def gradient_rules(t: GradientTiles) -> Rules:
    """The same of the gradients of keys."""
    rows = t.Br % t.QG == 0 == t.Bc % t.KG
    return {
        "a warp owns whole fragments of the scores, in pairs": rows and t.WM % 16 == 0 == t.WN % 16 and t.WM * t.WN > 0,
        "rows of shared tiles are a power of 2 of chunks": all(n & (n - 1) == 0 for n in (t.Br, t.D, t.DV)),
        "a warp owns whole fragments of dK and dV, in pairs": t.D % (16 * t.QG) == 0 == t.DV % (16 * t.QG),
        "dQ can be shared by all warps": t.Br <= 32 * t.warps
        and t.dq_rows % 16 == 0 == t.dq_columns % 16
        and t.dq_rows <= t.Br,
        "threads are at most 1024": t.threads <= 1024,
        "one or two tiles of queries": t.stages in (1, 2),
    }


def mma_rules(t: MmaTiles) -> Rules:
    """What matmul_mma asks of its tile sizes."""
    return {
        "every element has an owner": t.BM % t.WM == 0 == t.BN % t.WN,
        "a warp owns whole fragments, B's in pairs": t.WM % 16 == 0 == t.WN % 16 and 0 < t.WM * t.WN <= 64 * 64,
        "slices are 16 deep, and come in pairs": t.BK % 32 == 0 < t.BK,
        "rows of shared tiles are a power of 2 of chunks": all(n & (n - 1) == 0 for n in (t.BK, t.BN, t.WN)),
        "C fits where A and B lay": t.stages * (t.BM + t.BN) * t.BK >= t.BM * t.BN,
        "one pair of tiles is multiplied while others arrive": t.stages >= 2,
        "at most 1024 threads": 0 < t.threads <= 1024,
    }


def warpgroup_rules(t: WarpgroupTiles) -> Rules:
    """What flash3 asks of its tile sizes."""
    return {
        "one to three warpgroups own 64 rows each": t.Br % 64 == 0 and t.consumers in SHARED_REGISTERS,
        "keys are the depth of a product, 16 at a time": 0 < t.Bc <= 256 and t.Bc % 16 == 0,
        "products have whole steps of depth and whole fragments": t.D % 16 == 0 == t.DV % 16 and max(t.D, t.DV) <= 256,
        "there are stages": t.stages > 0,
        "a slot or two": t.queries in (1, 2),
        "of eight exponentials": 0 <= t.multiplied <= 8,
    }


def warpgroup_gradient_rules(t: WarpgroupGradientTiles) -> Rules:
    """The same of the gradients."""
    blocks = t.dq_blocks
    return {
        "one or two warpgroups compute 64 keys each, or share them": t.Bc % 64 == 0 and t.consumers in (1, 2),
        "query rows come in panels, one if they are shared": t.Br in ((64, 128) if t.QG == 1 else (64,)),
        "dK takes dS from registers only where it is not shared": not t.direct or t.QG == 1,
        "columns of dK and dV are shared in panels": t.D % (64 * t.QG) == 0 == t.DV % (64 * t.QG),
        "dQ is shared in blocks of 64 rows": blocks > 0 and t.consumers % blocks == 0,
        "head dimensions are at most 256": 0 < t.D <= 256 and 0 < t.DV <= 256,
        "there are stages of Q and dO": t.stages > 0,
    }


def wgmma_rules(t: WgmmaTiles) -> Rules:
    """What matmul_wgmma asks of its tile sizes."""
    return {
        "one to three warpgroups own 64 rows of C each": t.BM % 64 == 0 and t.consumers in SHARED_REGISTERS,
        "a product is at most 256 wide, in whole panels": 0 < t.BN <= 256 and t.BN % 64 == 0,
        "a stage is a panel deep": t.BK == 64,
        "there are stages of A and B": t.stages > 0,
    }


def broken(rules: Rules) -> list[str]:
    """The rules that do not hold."""
    return [rule for rule, holds in rules.items() if not holds]


@contextmanager
def only_these(tables: Sequence[tuple[dict[Any, Any], Any]], rules: Rules) -> Iterator[None]:
    """Tables of tile sizes in which the only choice is the one beside each, if all rules hold."""
    if names := broken(rules):
        chosen = " and ".join(dict.fromkeys(str(tiles) for _, tiles in tables))
        raise ValueError(f"{chosen} break these rules: {'; '.join(names)}")
    with other_plans(), ExitStack() as stack:
        for table, tiles in tables:
            stack.enter_context(patch.dict(table, dict.fromkeys(table, [tiles])))
        yield


@contextmanager
def attention_tiles(tiles: Tiles, key_tiles: Tiles) -> Iterator[None]:
    """Run flash2 with these tile sizes.

    Parameters
    ----------
    tiles : Tiles
        Of the forward pass and of dQ in a kernel of its own: `forward_rules`, `query_rules`. Head dimensions are fitted
        to the problem.
    key_tiles : Tiles
        Of dK, dV and the sum of dQ: `key_rules`.

    Raises
    ------
    ValueError
        If the kernels cannot be made with these tile sizes.
    """
    rules = forward_rules(tiles) | query_rules(tiles) | key_rules(key_tiles)
    forward, backward = (import_module(f"numba_flash.rungs.flash2_{name}") for name in ("forward", "backward"))
    tables = (forward.CONFIGS, tiles), (backward.QUERY_CONFIGS, tiles), (backward.KEY_CONFIGS, key_tiles)
    with only_these(tables, rules):
        yield


@contextmanager
def first_tiles(row: tuple[int, int], forward: Tiles, backward: Tiles) -> Iterator[None]:
    """Run the attention rungs before flash2 with other tile sizes.

    Parameters
    ----------
    row : (rows of a block, lanes of each)
        For the rungs without tiles. Lanes are 32 on a GPU; in the simulator fewer will do for a block of one row.
    forward, backward : Tiles
        Of flash1. Head dimensions are fitted to the problem.
    """
    modules = [import_module(f"numba_flash.rungs.attention_{name}") for name in ("naive", "two_pass", "one_pass")]
    tables = [import_module(f"numba_flash.rungs.flash1_{name}").CONFIGS for name in ("forward", "backward")]
    with other_plans(), ExitStack() as stack:
        for module in modules:
            stack.enter_context(patch.object(module, "CONFIGS", [row]))
        for table, tiles in zip(tables, (forward, backward), strict=True):
            fitted = {(size, width): replace(tiles, D=width, DV=width) for size, width in table}
            stack.enter_context(patch.dict(table, fitted))
        yield


@contextmanager
def matmul_tiles(tile: int, registers: MatmulTiles) -> Iterator[None]:
    """Run matmul_tiled with tile x tile, and matmul_registers with other tile sizes."""
    tiled, registered = (import_module(f"numba_flash.rungs.matmul_{name}") for name in ("tiled", "registers"))
    with (
        other_plans(),
        patch.object(tiled, "CONFIGS", [tile]),
        patch.dict(registered.CONFIGS, dict.fromkeys(registered.CONFIGS, registers)),
    ):
        yield


@contextmanager
def fragment_tiles(tiles: Tiles, key_tiles: GradientTiles) -> Iterator[None]:
    """Run flash2 on tensor cores with other tile sizes, its deterministic gradients as if for four multiprocessors.

    Parameters
    ----------
    tiles : Tiles
        Of the forward pass: `fragment_rules`.
    key_tiles : GradientTiles
        Of the gradients: `gradient_rules`. Head dimensions of both are fitted to the problem, whichever it is, so the
        rules must hold for all.

    Raises
    ------
    ValueError
        If the kernels cannot be made with these tile sizes.
    """
    rules = [
        fragment_rules(fit_tiles(tiles, width, width)) | gradient_rules(fit_tiles(key_tiles, width, width))
        for width in WIDTHS
    ]
    for_all = {rule: all(at[rule] for at in rules) for rule in rules[0]}
    forward, backward = (import_module(f"numba_flash.rungs.flash2_mma_{name}") for name in ("forward", "backward"))
    with only_these(((forward.CONFIGS, tiles), (backward.CONFIGS, key_tiles)), for_all):
        yield


@contextmanager
def mma_tiles(tiles: MmaTiles) -> Iterator[None]:
    """Run matmul_mma with other tile sizes, however it loads: `mma_rules`."""
    table = import_module("numba_flash.rungs.matmul_mma").CONFIGS
    with other_plans(), patch.dict(table, dict.fromkeys(table, [tiles])):
        yield


@contextmanager
def warpgroup_tiles(
    tiles: WarpgroupTiles, products: WgmmaTiles, gradients: WarpgroupGradientTiles | None = None
) -> Iterator[None]:
    """Run flash3 and matmul_wgmma with other tile sizes.

    Parameters
    ----------
    tiles : WarpgroupTiles
        Of the forward pass: `warpgroup_rules`. Head dimensions are fitted to the problem.
    products : WgmmaTiles
        Of matmul_wgmma: `wgmma_rules`.
    gradients : WarpgroupGradientTiles
        Of the backward pass: `warpgroup_gradient_rules`. By default the smallest there are.

    Raises
    ------
    ValueError
        If the kernels cannot be made with these tile sizes.
    """
    gradients = gradients or WarpgroupGradientTiles(64, 64, 64, 64)
    names = "flash3_forward", "flash3_backward", "matmul_wgmma"
    forward, backward, matmul = (import_module(f"numba_flash.rungs.{name}") for name in names)
    tables = (forward.CONFIGS, tiles), (backward.CONFIGS, gradients), (matmul.CONFIGS, products)
    with only_these(tables, warpgroup_rules(tiles) | warpgroup_gradient_rules(gradients) | wgmma_rules(products)):
        yield
