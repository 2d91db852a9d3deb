"""The properties of attention on tensor cores; the forward rung lends its o and lse to flash2's gradients."""

import pytest
from hypothesis import settings

from numba_flash.config import Tiles
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

FORWARD = "flash2_mma_forward"
PROPERTIES = (
    agreement.test_forward,
    agreement.test_backward,
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
    holds.search(kernels.on_tensor_cores(FORWARD, "flash2"), max_examples=few)


@for_all(depths=(8, 12, 24), layouts=("contiguous", "transposed", "padded"))
def copied(backend, case):
    """Rows on 16 bytes, some of which end within them."""
    agreement.test_forward.holds(backend, case)


@pytest.mark.parametrize("landing", ["late", "early"])
def test_copies_may_land_early_or_late(kernels, landing):
    if landing == "early" and kernels is not SIMULATOR:
        pytest.skip("only the simulator can choose")
    with simulated(landing=landing):
        copied.search(kernels.on_tensor_cores(FORWARD, "flash2"))


@pytest.mark.parametrize("tiles", [Tiles(32, 16, 32, 32, 4, 4), Tiles(64, 32, 32, 32, 2, 4)], ids=str)
def test_other_tiles(kernels, tiles):
    """Two fragments one below another in a warp, and several warps."""
    with fragment_tiles(tiles):
        agreement.test_forward.search(kernels.on_tensor_cores(FORWARD, "flash2"), max_examples=6)


PRODUCTION = [
    Case(B=1, Hq=2, Hk=1, Nq=130, Nk=70, d=17, dv=5, dtype="float16", causal=True),
    Case(B=1, Hq=1, Hk=1, Nq=9, Nk=19, d=64, dv=65, dtype="bfloat16", layouts=("strided",) * 4, window=(7, 3)),
    Case(B=1, Hq=1, Hk=1, Nq=5, Nk=9, d=256, dv=200, dtype="bfloat16"),
]


@pytest.mark.parametrize("case", PRODUCTION, ids=lambda case: f"{case.dtype}-{case.d}")
def test_production_tiles(simulator, case):
    """The tile sizes that run on a GPU."""
    agreement.test_forward.holds(simulator.on_tensor_cores(FORWARD, "flash2"), case)
