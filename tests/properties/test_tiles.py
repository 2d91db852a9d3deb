"""Tile sizes change nothing but rounding."""

import pytest

from numba_flash.config import Tiles
from numba_flash.testing.tiles import attention_tiles

from .for_all import for_all
from .test_agreement import test_backward as backward
from .test_agreement import test_forward as forward

SHAPES = [
    (Tiles(4, 8, 32, 32, 1, 8), Tiles(4, 16, 32, 32, 1, 8)),
    (Tiles(16, 8, 32, 32, 4, 8), Tiles(16, 16, 32, 32, 4, 8)),
    (Tiles(8, 4, 32, 32, 1, 4), Tiles(16, 32, 32, 32, 2, 4)),
    (Tiles(8, 16, 32, 32, 4, 16), Tiles(6, 16, 32, 32, 3, 16)),
    (Tiles(16, 16, 32, 32, 2, 8), Tiles(8, 64, 32, 32, 1, 8)),
]


@pytest.mark.parametrize("tiles, key_tiles", SHAPES, ids=[f"{t.Br}x{t.Bc}-{k.Br}x{k.Bc}" for t, k in SHAPES])
def test_any_tiles_agree(backend, tiles, key_tiles):
    if backend.kernel != "flash2":
        pytest.skip("its tiles are fixed")
    with attention_tiles(tiles, key_tiles):
        few_cases(backend)


@for_all(times=1 / 4)
def few_cases(backend, case):
    forward.holds(backend, case)
    backward.holds(backend, case)
