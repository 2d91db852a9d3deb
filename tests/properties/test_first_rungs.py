"""The properties of attention over the rungs before flash2, each in a few cases."""

import itertools

import pytest
from hypothesis import settings

from numba_flash.testing.case import Case

from . import test_agreement as agreement
from . import test_algebra as algebra
from . import test_gradients as gradients
from . import test_locality as locality
from . import test_memory as memory
from . import test_merge as merge

FORWARD = (
    agreement.test_forward,
    algebra.test_ones_give_ones,
    algebra.test_linear_in_v,
    algebra.test_lse_normalizes_p,
    locality.test_unseen_keys_may_hold_anything_finite,
    locality.test_skipped_blocks_may_hold_nan,
    locality.test_rows_that_see_nothing,
    memory.test_views_give_what_their_copies_give,
    memory.test_repeats_bit_by_bit,
    memory.test_inputs_stay_as_they_are,
    memory.test_outputs_are_written_once_and_nothing_else,
    merge.test_merged_parts_are_the_whole,
)
BACKWARD = (
    agreement.test_backward,
    algebra.test_order_of_keys_does_not_matter,
    algebra.test_grouped_heads_are_repeated_heads,
    gradients.test_rows_of_ds_sum_to_dlse,
    gradients.test_directional_derivative,
)
FORWARD_RUNGS = ("attention_naive", "attention_two_pass", "attention_one_pass")
PROPERTIES = [*itertools.product(FORWARD_RUNGS, FORWARD), *itertools.product(["flash1"], FORWARD + BACKWARD)]


@pytest.mark.parametrize(
    ("rung", "holds"), [pytest.param(*p, id=f"{p[0]}-{p[1].__name__.removeprefix('test_')}") for p in PROPERTIES]
)
def test_holds(kernels, rung, holds):
    """A quarter of the profile's cases each; a rung without a backward of its own lends its o and lse to flash2's."""
    backward = "flash1" if rung == "flash1" else "flash2"
    holds.search(kernels.before_flash2(rung, backward), max_examples=max(1, settings.default.max_examples // 4))


PRODUCTION = [
    Case(B=1, Hq=2, Hk=1, Nq=35, Nk=37, d=17, dv=5, causal=True, dlse=True),
    Case(B=1, Hq=1, Hk=1, Nq=9, Nk=19, d=64, dv=65, dtype="float64", layouts=("strided",) * 4, window=(7, 3)),
    Case(B=1, Hq=1, Hk=1, Nq=5, Nk=9, d=256, dv=200, dtype="bfloat16"),
]


@pytest.mark.parametrize("case", PRODUCTION, ids=lambda case: f"{case.dtype}-{case.d}")
@pytest.mark.parametrize("rung", (*FORWARD_RUNGS, "flash1"))
def test_production_tiles(simulator, rung, case):
    """The tile sizes that run on a GPU, once for each dtype of arithmetic and for the widest heads."""
    backend = simulator.before_flash2(rung, "flash1")
    agreement.test_forward.holds(backend, case)
    if rung == "flash1":
        agreement.test_backward.holds(backend, case)
