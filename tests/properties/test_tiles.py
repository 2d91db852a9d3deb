"""Tile sizes change nothing but rounding."""

import pytest

from numba_flash.config import MatmulTiles, MmaTiles, Tiles
from numba_flash.testing.backends import Backend
from numba_flash.testing.tiles import (
    attention_tiles,
    broken,
    longest_sum,
    matmul_rules,
    matmul_tiles,
    mma_rules,
    mma_tiles,
)

from .for_all import for_all
from .test_agreement import test_backward as backward
from .test_agreement import test_deterministic_backward as deterministic_backward
from .test_agreement import test_forward as forward
from .test_copies import deep_products
from .test_copies import test_tensor_product as tensor_product
from .test_matmul import test_product as product

# One to eight columns of S a thread, in runs of one and of four; rows in several runs; keys in runs of four and of one;
# one warp and more; P in a place of its own, and in that of Kj.
SHAPES = [
    (Tiles(8, 16, 64, 64, 4, 16), Tiles(4, 16, 32, 32, 1, 8)),
    (Tiles(16, 16, 64, 64, 4, 16, tight=True), Tiles(16, 16, 32, 32, 4, 8)),
    (Tiles(32, 32, 32, 32, 8, 8), Tiles(12, 32, 32, 32, 3, 8)),
    (Tiles(24, 16, 64, 64, 12, 16), Tiles(8, 64, 32, 32, 1, 8)),
    (Tiles(32, 12, 32, 32, 4, 4, tight=True), Tiles(6, 48, 64, 64, 3, 16)),
    (Tiles(16, 8, 32, 32, 4, 8), Tiles(8, 16, 64, 64, 1, 16)),
]
PRODUCTS = [MatmulTiles(8, 16, 4, 4, 4), MatmulTiles(24, 32, 8, 12, 8), MatmulTiles(16, 64, 12, 8, 16)]

# Rows of two to eight chunks; two stages to five; two warps side by side, four, and one.
TENSOR_PRODUCTS = [
    MmaTiles(16, 32, 32, 16, 16, stages=2, group=1),
    MmaTiles(32, 32, 32, 16, 16, stages=5, group=3),
    MmaTiles(32, 64, 64, 32, 64, stages=3),
]


@pytest.mark.parametrize("tiles, key_tiles", SHAPES, ids=[f"{t.Br}x{t.Bc}-{k.Br}x{k.Bc}" for t, k in SHAPES])
def test_any_tiles_agree(backend, tiles, key_tiles):
    if backend.kernel != "flash2":
        pytest.skip("its tiles are fixed")
    with attention_tiles(tiles, key_tiles):
        few_cases(backend)


@pytest.mark.parametrize("keys", [1, 100])
def test_sums_in_parts_agree(backend, keys):
    """One key block a launch, and several."""
    if backend.kernel != "flash2":
        pytest.skip("it has no launches")
    with longest_sum(keys):
        few_forward_cases(backend)


@for_all(times=1 / 2)
def few_forward_cases(backend, case):
    forward.holds(backend, case)


@for_all(times=1 / 4)
def few_cases(backend, case):
    forward.holds(backend, case)
    backward.holds(backend, case)
    deterministic_backward.holds(backend, case)


@pytest.mark.parametrize("tiles", PRODUCTS, ids=lambda t: f"{t.BM}x{t.BN}x{t.BK}")
def test_any_tiles_of_a_product_agree(backend, tiles):
    if "matmul_registers" not in backend.products:
        pytest.skip("its tiles are fixed")
    assert not broken(matmul_rules(tiles))
    with matmul_tiles(4, tiles):
        few_products(backend)


@for_all(times=1 / 2, cases=Backend.matmul_cases)
def few_products(backend, case):
    product.holds(backend, case)


@pytest.mark.parametrize("tiles", TENSOR_PRODUCTS, ids=lambda t: f"{t.BM}x{t.BN}x{t.BK}")
def test_any_tiles_on_tensor_cores_agree(backend, tiles):
    if not backend.tensor_products:
        pytest.skip("it has no tensor cores")
    assert not broken(mma_rules(tiles))
    with mma_tiles(tiles):
        few_tensor_products(backend)


@for_all(times=1 / 2, cases=deep_products)
def few_tensor_products(backend, case):
    tensor_product.holds(backend, case)
