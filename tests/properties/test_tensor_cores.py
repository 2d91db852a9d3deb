"""The properties of attention on tensor cores."""

import pytest
from hypothesis import settings

from numba_flash.config import GradientTiles, Tiles
from numba_flash.rungs import flash2_mma_backward
from numba_flash.testing.backends import SIMULATOR
from numba_flash.testing.case import Case
from numba_flash.testing.tiles import fragment_tiles

from . import test_agreement as agreement
from . import test_algebra as algebra
from . import test_gradients as gradients
from . import test_locality as locality
from . import test_memory as memory
from . import test_merge as merge
from .for_all import for_all, simulated

FORWARD, BACKWARD = "flash2_mma_forward", "flash2_mma_backward"
PROPERTIES = (
    agreement.test_forward,
    agreement.test_backward,
    agreement.test_deterministic_backward,
    algebra.test_ones_give_ones,
    algebra.test_linear_in_v,
    algebra.test_lse_normalizes_p,
    algebra.test_grouped_heads_are_repeated_heads,
    gradients.test_rows_of_ds_sum_to_dlse,
    locality.test_unseen_keys_may_hold_anything_finite,
    locality.test_skipped_blocks_may_hold_nan,
    locality.test_rows_that_see_nothing,
    memory.test_views_give_what_their_copies_give,
    memory.test_repeats_bit_by_bit,
    memory.test_inputs_stay_as_they_are,
    memory.test_outputs_are_written_once_and_nothing_else,
    merge.test_merged_parts_are_the_whole,
)


@pytest.mark.parametrize("holds", PROPERTIES, ids=lambda holds: holds.__name__.removeprefix("test_"))
def test_holds(kernels, holds):
    """Half of the profile's cases each."""
    few = max(1, settings.default.max_examples // 2)
    holds.search(kernels.on_tensor_cores(FORWARD, BACKWARD), max_examples=few)


COPIED = {"depths": (8, 12, 24), "layouts": ("contiguous", "transposed", "padded")}  # rows on 16 bytes


@for_all(**COPIED)
def copied(backend, case):
    """Rows on 16 bytes, some of which end within them."""
    agreement.test_forward.holds(backend, case)


@for_all(times=1 / 2, **COPIED)
def copied_gradients(backend, case):
    """The same for gradients."""
    agreement.test_backward.holds(backend, case)


@for_all(times=1 / 2, **COPIED)
def copied_deterministic_gradients(backend, case):
    """The same with several sums of dQ, and several launches."""
    agreement.test_deterministic_backward.holds(backend, case)


@pytest.mark.parametrize("holds", [copied, copied_gradients, copied_deterministic_gradients], ids=lambda f: f.__name__)
@pytest.mark.parametrize("landing", ["late", "early"])
def test_copies_may_land_early_or_late(kernels, landing, holds):
    if landing == "early" and kernels is not SIMULATOR:
        pytest.skip("only the simulator can choose")
    with simulated(landing=landing):
        holds.search(kernels.on_tensor_cores(FORWARD, BACKWARD))


@pytest.mark.parametrize("tiles", [Tiles(32, 16, 32, 32, 4, 4), Tiles(64, 32, 32, 32, 2, 4)], ids=str)
def test_other_tiles(kernels, tiles):
    """Two fragments one below another in a warp, and several warps."""
    with fragment_tiles(tiles, GradientTiles(32, 16, 32, 32, 1, 2)):
        agreement.test_forward.search(kernels.on_tensor_cores(FORWARD, BACKWARD), max_examples=6)
        agreement.test_deterministic_backward.search(kernels.on_tensor_cores(FORWARD, BACKWARD), max_examples=2)


GRADIENT_TILES = [
    GradientTiles(32, 32, 32, 32, 1, 1),
    GradientTiles(16, 64, 32, 32, 2, 1, stages=1),
    GradientTiles(64, 32, 64, 64, 2, 4),
]


@pytest.mark.parametrize("tiles", GRADIENT_TILES, ids=lambda t: f"{t.Br}x{t.Bc}-{t.KG}x{t.QG}-{t.stages}")
def test_other_tiles_of_gradients(kernels, tiles):
    """Warps that share queries, keys or both; one tile of queries at a time; two fragments one below another."""
    with fragment_tiles(Tiles(16, 16, 32, 32, 2, 4), tiles):
        agreement.test_backward.search(kernels.on_tensor_cores(FORWARD, BACKWARD), max_examples=3)


def test_numbers_are_added_one_by_one_before_sm_90(simulator, monkeypatch):
    monkeypatch.setattr(flash2_mma_backward, "kind_of_adds", lambda device: "scalars")
    case = Case(B=1, Hq=2, Hk=1, Nq=37, Nk=41, d=24, dv=17, dtype="bfloat16", causal=True)
    with fragment_tiles(Tiles(16, 16, 32, 32, 2, 4), GradientTiles(32, 16, 32, 32, 1, 2)):
        agreement.test_backward.holds(simulator.on_tensor_cores(FORWARD, BACKWARD), case)


IN_ORDER = [
    Case(B=1, Hq=1, Hk=1, Nq=9, Nk=73, d=24, dv=17, dtype="float16"),
    Case(B=1, Hq=4, Hk=2, Nq=9, Nk=73, d=8, dv=8, dtype="bfloat16", causal=True, dlse=True),
    Case(B=2, Hq=2, Hk=2, Nq=9, Nk=40, d=8, dv=8, dtype="float16", window=(9, 5)),
    Case(B=1, Hq=2, Hk=2, Nq=40, Nk=40, d=8, dv=8, dtype="float16", causal=True, q_offset=-33),
    Case(B=1, Hq=1, Hk=1, Nq=40, Nk=89, d=8, dv=8, dtype="float16", q_offset=9, window=(0, 10)),
]


@pytest.mark.parametrize("case", IN_ORDER, ids=str)
def test_deterministic_gradients_are_added_in_order(kernels, case):
    """Rows that see nothing get no addition at all."""
    backend = kernels.on_tensor_cores(FORWARD, BACKWARD)
    with fragment_tiles(Tiles(16, 16, 32, 32, 2, 4), GradientTiles(32, 16, 32, 32, 1, 2)):
        agreement.test_deterministic_backward.holds(backend, case)
        memory.test_repeats_bit_by_bit.holds(backend, case)


PRODUCTION = [
    Case(B=1, Hq=1, Hk=1, Nq=130, Nk=70, d=17, dv=5, dtype="float16", causal=True),
    Case(B=1, Hq=1, Hk=1, Nq=9, Nk=19, d=64, dv=65, dtype="bfloat16", layouts=("strided",) * 4, window=(7, 3)),
    Case(B=1, Hq=1, Hk=1, Nq=5, Nk=9, d=256, dv=200, dtype="bfloat16"),
]


@pytest.mark.parametrize("case", PRODUCTION, ids=lambda case: f"{case.dtype}-{case.d}")
def test_production_tiles(simulator, case):
    """The tile sizes that run on a GPU."""
    backend = simulator.on_tensor_cores(FORWARD, BACKWARD)
    agreement.test_forward.holds(backend, case)
    agreement.test_backward.holds(backend, case)
    agreement.test_deterministic_backward.holds(backend, case)
