"""The same for the rungs of attention before flash2."""

from dataclasses import replace

import pytest
from hypothesis import Phase
from properties import test_agreement, test_algebra, test_gradients, test_locality, test_memory, test_merge

from numba_flash.simulator import SIMULATED, MemoryFault
from numba_flash.testing.backends import SIMULATOR
from numba_flash.testing.tiles import tiny_tiles

from .mutant import Mutant

pytestmark = pytest.mark.skipif(not SIMULATED, reason="mutants live in the simulator")

FORWARD, BACKWARD, TILING = "kernels.flash1_forward", "kernels.flash1_backward", "tiling"


def mutants(rung, *rows):
    """Mutants of one rung: name, module, old, new, killed by."""
    module = f"kernels.{rung}"
    return [(rung, Mutant(row[0], *(row[1:] if len(row) == 5 else (module, *row[1:])))) for row in rows]


MUTANTS = [
    *mutants(
        "attention_naive",
        ("e^s overflows", "ZERO if m == NEG_INF else m", "ZERO",
         test_agreement.test_forward),
        ("-inf - -inf", "ZERO if m == NEG_INF else m", "m",
         test_locality.test_rows_that_see_nothing),
        ("P is not divided by l", "- pivot) / divisor", "- pivot)",
         test_algebra.test_ones_give_ones),
        ("LSE in base 2", "math.log(", "math.log2(",
         test_algebra.test_lse_normalizes_p),
        ("the last key is dropped from O", "range(begin, end)", "range(begin, end - 1)",
         test_algebra.test_ones_give_ones),
        ("V of another KV head", "head(V_strides, b, h // (Hq // Hk))", "head(V_strides, b, h % Hk)",
         test_agreement.test_forward),
    ),
    *mutants(
        "attention_two_pass",
        ("the last score for the largest", "m_new = max(m, x)", "m_new = x",
         test_agreement.test_forward),
        ("a stale maximum", "l * exp(m - m_new) + exp(x - m_new)", "l * exp(m - m_new) + exp(x - m)",
         test_agreement.test_forward),
        ("l is not rescaled", "l * exp(m - m_new)", "l",
         test_algebra.test_ones_give_ones),
        ("missing 1/l", "exp(x - m) / l", "exp(x - m)",
         test_algebra.test_ones_give_ones),
        ("the second pass forgets the scale", "* scale\n                a =", "\n                a =",
         test_agreement.test_forward),
        ("V's column stride is forgotten", "v, V_strides[3], dv", "v, 1, dv",
         test_memory.test_views_give_what_their_copies_give),
    ),
    *mutants(
        "attention_one_pass",
        ("o' is not rescaled", "l_old / l, p / l", "l / l, p / l",
         test_algebra.test_ones_give_ones),
        ("l is not rescaled", "l_old, p = l * exp(m - m_new)", "l_old, p = l",
         test_algebra.test_lse_normalizes_p),
        ("missing 1/l", "l_old / l, p / l", "l_old / l, p",
         test_algebra.test_ones_give_ones),
        ("the identity has m = 0", "m, l = NEG_INF, ZERO", "m, l = ZERO, ZERO",
         test_agreement.test_forward),
        ("the last key is dropped", "range(begin, end)", "range(begin, end - 1)",
         test_merge.test_merged_parts_are_the_whole),
    ),
    *mutants(
        "flash1_forward",
        ("O is not rescaled", "l_i * alpha * o", "l_i * o",
         test_algebra.test_ones_give_ones),
        ("l is not rescaled", "alpha * l_i + beta", "l_i + beta",
         test_algebra.test_ones_give_ones),
        ("a tile's P keeps the tile's maximum", "beta * pv", "pv",
         test_algebra.test_ones_give_ones),
        ("the divisor of the last tile only", "beta * pv) / l_new", "beta * pv) / l_ij",
         test_algebra.test_ones_give_ones),
        ("LSE in base 2", "math.log(", "math.log2(",
         test_algebra.test_lse_normalizes_p),
        ("another KV head", "hk = h // (Hq // Hk)", "hk = h % Hk",
         test_agreement.test_forward),
        ("the key behind the diagonal", TILING, "j < Nk and i + first <= j <= i + last",
         "j < Nk and i + first <= j <= i + last + 1",
         test_locality.test_unseen_keys_may_hold_anything_finite),
        ("the last block of queries is left out", TILING, "return low // Br, cdiv(high, Br)",
         "return low // Br, high // Br",
         test_merge.test_merged_parts_are_the_whole),
        ("Kj, Vj change while they are read",
         "cuda.syncthreads()  # l, m are written and the last Kj, Vj read by everyone before the next lines", "pass",
         test_agreement.test_forward),
        ("Qi, Kj, Vj are read before they are written",
         "cuda.syncthreads()  # Qi, Kj, Vj are written before anyone reads them", "pass",
         test_agreement.test_forward),
        ("l and m are not initialized", "lh[row], mh[row] = ZERO, NEG_INF", "pass",
         test_memory.test_outputs_are_written_once_and_nothing_else),
    ),
    *mutants(
        "flash1_backward",
        ("dQ is overwritten, not accumulated", "dq[x] += scale", "dq[x] = scale",
         test_agreement.test_backward),
        ("dQ does not begin at 0", "dQ_group[x] = ZERO", "pass",
         test_memory.test_outputs_are_written_once_and_nothing_else),
        ("dK without scale", "dKj[y, x] += scale * dot_atb", "dKj[y, x] += dot_atb",
         test_gradients.test_directional_derivative),
        ("no delta", " - delta_row)", ")",
         test_gradients.test_rows_of_ds_sum_to_dlse),
        ("P without LSE", "* scale - lse)", "* scale)",
         test_agreement.test_backward),
        ("gradients of one head of a group", "(hk + 1) * group)", "hk * group + 1)",
         test_algebra.test_grouped_heads_are_repeated_heads),
        ("the gradient of the last key is not written", "range(r, keys, Br)", "range(r, keys - 1, Br)",
         test_memory.test_outputs_are_written_once_and_nothing_else),
        ("P, dS are read before they are written",
         "cuda.syncthreads()  # P, dS are written before other threads read them", "pass",
         test_agreement.test_backward),
        ("Qi, dOi change while they are read",
         "cuda.syncthreads()  # everyone has read the last Qi, dOi, P, dS before they change", "pass",
         test_agreement.test_backward),
        ("dQ is rounded before it is complete",
         "cuda.syncthreads()  # dQ is complete before other threads give it its dtype", "pass",
         test_agreement.test_backward),
    ),
]  # fmt: skip


def backend(rung):
    """The simulator with the rung's family, or with the rung and the backward of flash2."""
    return SIMULATOR.before_flash2(*("flash1", "flash1") if rung.startswith("flash1") else (rung, "flash2"))


@pytest.mark.parametrize(
    ("rung", "mutant"), [pytest.param(*m, id=f"{m[0]}-{m[1].name.replace(' ', '-')}") for m in MUTANTS]
)
def test_a_property_fails(rung, mutant):
    with mutant.alive(), tiny_tiles(), pytest.raises((AssertionError, MemoryFault)):
        mutant.killed_by.search(backend(rung), max_examples=60, phases=[Phase.generate])


@pytest.mark.parametrize("rung", dict.fromkeys(rung for rung, _ in MUTANTS))
def test_the_original_does_not(rung):
    """Made anew in the same way, but unchanged."""
    first = next(mutant for name, mutant in MUTANTS if name == rung)
    with replace(first, new=first.old).alive(), tiny_tiles():
        for killer in dict.fromkeys(mutant.killed_by for name, mutant in MUTANTS if name == rung):
            killer.search(backend(rung), max_examples=2)
