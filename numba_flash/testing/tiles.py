"""Other tile sizes for kernels: tiny ones for the simulator, odd ones for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib import import_module
from unittest.mock import patch

from numba_flash.config import Tiles
from numba_flash.kernels.matmul_registers import MatmulTiles


@contextmanager
def tiny_tiles() -> Iterator[None]:
    """Run kernels with tiles of about 8 x 8 and blocks of at most a warp: what the simulator runs fast."""
    tiles, key_tiles = Tiles(16, 8, 32, 32, 4, 8), Tiles(8, 16, 32, 32, 2, 8)
    first = (1, 4), Tiles(8, 8, 32, 32, 1, 8), Tiles(8, 8, 32, 32, 1, 4)
    products = matmul_tiles(4, MatmulTiles(16, 16, 4, 8, 4))
    with attention_tiles(tiles, key_tiles), products, block_threads(8), first_tiles(*first):
        yield


@contextmanager
def block_threads(T: int) -> Iterator[None]:
    """Run both softmaxes and matmul_naive in blocks of T threads, a power of 2."""
    with ExitStack() as stack:
        for name in ("softmax_safe", "softmax_online", "matmul_naive"):
            module = import_module(f"numba_flash.kernels.{name}")
            stack.enter_context(patch.object(module, "CONFIGS", [T]))
        yield


@contextmanager
def attention_tiles(tiles: Tiles, key_tiles: Tiles) -> Iterator[None]:
    """Run flash2 with these tile sizes.

    Parameters
    ----------
    tiles : Tiles
        Of the forward pass and of dQ. Threads are whole warps; head dimensions are fitted to the problem.
    key_tiles : Tiles
        Of dK and dV; Bc is a multiple of 4*RG.
    """
    forward, backward = (import_module(f"numba_flash.kernels.flash2_{name}") for name in ("forward", "backward"))
    with ExitStack() as stack:
        for table, chosen in (
            (forward.CONFIGS, tiles),
            (backward.QUERY_CONFIGS, tiles),
            (backward.KEY_CONFIGS, key_tiles),
        ):
            stack.enter_context(patch.dict(table, dict.fromkeys(table, [chosen])))
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
    modules = [import_module(f"numba_flash.kernels.attention_{name}") for name in ("naive", "two_pass", "one_pass")]
    tables = [import_module(f"numba_flash.kernels.flash1_{name}").CONFIGS for name in ("forward", "backward")]
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(patch.object(module, "CONFIGS", [row]))
        for table, tiles in zip(tables, (forward, backward), strict=True):
            fitted = {(size, width): replace(tiles, D=width, DV=width) for size, width in table}
            stack.enter_context(patch.dict(table, fitted))
        yield


@contextmanager
def matmul_tiles(tile: int, registers: MatmulTiles) -> Iterator[None]:
    """Run matmul_tiled with tile x tile, and matmul_registers with other tile sizes."""
    tiled, registered = (import_module(f"numba_flash.kernels.matmul_{name}") for name in ("tiled", "registers"))
    with patch.object(tiled, "CONFIGS", [tile]), patch.dict(registered.CONFIGS, dict.fromkeys((4, 8), registers)):
        yield
