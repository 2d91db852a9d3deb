"""The properties of attention and of products by warpgroups, on GPUs of compute capability 9.0 and in the simulator."""

from dataclasses import replace

import pytest

from numba_flash.config import WarpgroupGradientTiles, WarpgroupTiles, WgmmaTiles, current_device
from numba_flash.ladder import FORWARD
from numba_flash.rungs import flash3_forward
from numba_flash.specimen import specimen
from numba_flash.testing.backends import GPU, SIMULATOR, Backend
from numba_flash.testing.case import Case
from numba_flash.testing.matmul import MatmulCase
from numba_flash.testing.tiles import warpgroup_tiles
from numba_flash.tiling import round_up

from . import test_agreement as agreement
from . import test_algebra as algebra
from . import test_gradients as gradients
from . import test_locality as locality
from . import test_matmul as matmul
from . import test_memory as memory
from . import test_merge as merge
from .for_all import for_all, simulated

PROPERTIES = (
    agreement.test_forward,
    algebra.test_ones_give_ones,
    algebra.test_lse_normalizes_p,
    locality.test_unseen_keys_may_hold_anything_finite,
    locality.test_skipped_blocks_may_hold_nan,
    locality.test_rows_that_see_nothing,
    memory.test_views_give_what_their_copies_give,
    memory.test_repeats_bit_by_bit,
    memory.test_outputs_are_written_once_and_nothing_else,
    merge.test_merged_parts_are_the_whole,
    agreement.test_backward,
    agreement.test_deterministic_backward,
    gradients.test_rows_of_ds_sum_to_dlse,
)
HALVES = ("float16", "bfloat16")


@pytest.fixture
def warpgroups(kernels):
    """The backend with flash3."""
    if kernels is GPU and current_device(0).compute_capability != (9, 0):
        pytest.skip("needs compute capability 9.0")
    return kernels.on_tensor_cores("flash3_forward", "flash3_backward")


@pytest.mark.parametrize("holds", PROPERTIES, ids=lambda holds: holds.__name__.removeprefix("test_"))
def test_holds(warpgroups, holds):
    """A few cases each: a block has more threads than any other kernel's."""
    holds.search(warpgroups, max_examples=3)


@pytest.mark.parametrize(("landing", "seed"), [("late", 0), ("early", 1), ("crossed", None)])
def test_boxes_and_products_may_land_early_or_late(warpgroups, landing, seed):
    if warpgroups.name != SIMULATOR.name:
        pytest.skip("only the simulator can choose")
    with simulated(landing=landing, seed=seed):
        agreement.test_forward.search(warpgroups, max_examples=4)
        agreement.test_backward.search(warpgroups, max_examples=3)


@pytest.mark.parametrize("multiplied", [3, 8])
def test_exponentials_by_multiply_adds(warpgroups, multiplied):
    """All or some of them."""
    tiles = WarpgroupTiles(64, 32, 64, 64, multiplied=multiplied)
    with warpgroup_tiles(tiles, WgmmaTiles(64, 64, 2)):
        agreement.test_forward.search(warpgroups, max_examples=3)
        algebra.test_lse_normalizes_p.search(warpgroups, max_examples=2)


PACKED = [
    Case(B=1, Hq=8, Hk=2, Nq=7, Nk=50, d=64, dv=64, dtype="float16", causal=True),
    Case(B=2, Hq=4, Hk=2, Nq=31, Nk=40, d=24, dv=40, dtype="bfloat16", window=(9, 4), layouts=("transposed",) * 4),
    Case(B=1, Hq=16, Hk=1, Nq=1, Nk=70, d=20, dv=8, dtype="float16", layouts=("strided",) * 4),
    Case(B=1, Hq=64, Hk=1, Nq=3, Nk=20, d=16, dv=16, dtype="float16", causal=True),
]


@pytest.mark.parametrize("case", PACKED, ids=lambda case: f"{case.Hq}-{case.Hk}-{case.Nq}")
def test_a_tile_holds_all_heads_of_a_group(warpgroups, case):
    """If there are few queries of each."""
    problem = specimen(FORWARD, case.dtype, Hq=case.Hq, Hk=case.Hk, Nq=case.Nq, Nk=case.Nk, dv=case.dv)
    tiles = WarpgroupTiles(128, 16, 64, 64)
    assert flash3_forward.heads_packed(problem, tiles) == case.Hq // case.Hk
    with warpgroup_tiles(tiles, WgmmaTiles(64, 64, 2)):
        agreement.test_forward.holds(warpgroups, case)


def test_a_maximum_that_stays(warpgroups):
    """Rows that see one key alone, whose P is not 1 but up to 2^8, so that O may be off by a whole unit: so may dQ."""
    case = Case(
        B=1,
        Hq=1,
        Hk=1,
        Nq=17,
        Nk=23,
        d=19,
        dv=19,
        dtype="float16",
        alibi=("float64", (1, 1)),
        bias=("float16", (1, 1, 1, 1)),
        mask=(1, 1, 1, 1),
        layouts=("strided", "backward", "backward", "broadcast"),
        regime="overflow",
        seed=1732,
    )
    with warpgroup_tiles(WarpgroupTiles(64, 16, 64, 64), WgmmaTiles(64, 64, 2)):
        agreement.test_backward.holds(warpgroups, case)


@pytest.mark.parametrize("case", PACKED[:2], ids=lambda case: f"{case.Hq}-{case.Hk}-{case.Nq}")
def test_grouped_heads_are_repeated_heads(warpgroups, case):
    algebra.assert_grouped(warpgroups, case)


# Query blocks that see all, some and none of the key blocks; more work than blocks; rows on 16 bytes and others.
CASES = [
    Case(B=1, Hq=3, Hk=1, Nq=130, Nk=70, d=64, dv=64, dtype="float16", causal=True, q_offset=-40),
    Case(B=2, Hq=1, Hk=1, Nq=70, Nk=90, d=40, dv=24, dtype="bfloat16", window=(20, 5), layouts=("transposed",) * 4),
    Case(B=1, Hq=2, Hk=2, Nq=66, Nk=40, d=20, dv=13, dtype="float16", layouts=("strided",) * 4),
    Case(
        B=1,
        Hq=1,
        Hk=1,
        Nq=20,
        Nk=33,
        d=72,
        dv=136,
        dtype="float16",
        softcap=3.0,
        alibi=("float32", (1, 1)),
        bias=("float32", (1, 1, 20, 33)),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.Nq}x{case.Nk}-{case.d}-{case.dv}")
@pytest.mark.parametrize("tiles", [(64, 32, 2), (128, 16, 3), (192, 48, 1)], ids=str)
def test_other_tiles(warpgroups, tiles, case):
    """One to three warpgroups that compute, one to three stages."""
    Br, Bc, stages = tiles
    with warpgroup_tiles(WarpgroupTiles(Br, Bc, 64, 64, stages), WgmmaTiles(64, 64, 2)):
        agreement.test_forward.holds(warpgroups, case)


GRADIENT_TILES = [
    WarpgroupGradientTiles(64, 128, 64, 64, stages=3, direct=True),
    WarpgroupGradientTiles(128, 128, 64, 64, stages=1),
    WarpgroupGradientTiles(64, 64, 128, 128, QG=2),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.Nq}x{case.Nk}-{case.d}-{case.dv}")
@pytest.mark.parametrize("tiles", GRADIENT_TILES, ids=lambda t: f"{t.Br}x{t.Bc}-{t.QG}-{t.stages}")
def test_other_tiles_of_gradients(warpgroups, tiles, case):
    """Warpgroups that own keys or share them, one or two blocks of dQ, one to three stages."""
    case = replace(case, d=min(case.d, 64), dv=min(case.dv, 64))  # or there is too little shared memory for one of them
    with warpgroup_tiles(WarpgroupTiles(64, 32, 64, 64), WgmmaTiles(64, 64, 2), tiles):
        agreement.test_backward.holds(warpgroups, case)


IN_ORDER = [
    Case(B=1, Hq=2, Hk=1, Nq=9, Nk=150, d=8, dv=8, dtype="bfloat16", causal=True, q_offset=130, dlse=True),
    Case(B=1, Hq=1, Hk=1, Nq=70, Nk=200, d=24, dv=17, dtype="float16", window=(100, 70)),
]


@pytest.mark.parametrize("case", IN_ORDER, ids=lambda case: f"{case.Nq}x{case.Nk}")
def test_deterministic_gradients_are_added_in_order(warpgroups, case):
    with warpgroup_tiles(WarpgroupTiles(64, 32, 64, 64), WgmmaTiles(64, 64, 2)):
        agreement.test_deterministic_backward.holds(warpgroups, case)
        memory.test_repeats_bit_by_bit.holds(warpgroups, case)


@pytest.mark.parametrize("d", [64, 128, 256])
def test_production_tiles(simulator, d):
    """The tile sizes that run on a GPU."""
    case = Case(B=1, Hq=1, Hk=1, Nq=130, Nk=200, d=d, dv=d - 8, dtype="bfloat16", causal=True)
    backend = simulator.on_tensor_cores("flash3_forward", "flash3_backward")
    agreement.test_forward.holds(backend, case)
    agreement.test_backward.holds(backend, case)


def boxed_products(backend, **restrictions):
    """Matrices of 16-bit numbers of which rows, or columns, are whole 16 bytes."""
    layouts = ("contiguous", "padded", "columns")
    return Backend.matmul_cases(backend, layouts=layouts, dtypes=HALVES, **restrictions).map(in_eights)


def in_eights(case):
    """The same with M, K and N rounded up to multiples of 8, which is what boxes and rows of C ask for."""
    (*lead, M, K), (*b_lead, _, N) = case.a, case.b
    M, K, N = (round_up(n, 8) for n in (M, K, N))
    return replace(case, a=(*lead, M, K), b=(*b_lead, K, N))


@for_all(cases=boxed_products)
def product(backend, case):
    matmul.agree(backend, case, ["matmul_wgmma"])


@pytest.mark.parametrize(("landing", "seed"), [("late", None), ("early", 0), ("crossed", 1)])
def test_products(warpgroups, landing, seed):
    with simulated(landing=landing, seed=seed):
        product.search(warpgroups, max_examples=8)


@pytest.mark.parametrize("tiles", [WgmmaTiles(128, 128, 3, group=1), WgmmaTiles(192, 64, 1)], ids=str)
@pytest.mark.parametrize("layouts", [("contiguous", "columns"), ("columns", "contiguous")], ids="-".join)
def test_other_tiles_of_products(warpgroups, tiles, layouts):
    """More tiles than blocks, and more steps than stages; neither M, N nor K is a multiple of a tile's."""
    case = MatmulCase((2, 200, 264), (2, 264, 136), "bfloat16", "float32", layouts)
    with warpgroup_tiles(WarpgroupTiles(64, 16, 64, 64), tiles):
        product.holds(warpgroups, case)


def test_production_tiles_of_products(simulator):
    product.holds(simulator, MatmulCase((300, 200), (200, 264), "float16", layouts=("contiguous", "columns")))
