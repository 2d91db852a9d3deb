"""The same for functions of the user's."""

import pytest
from hypothesis import Phase
from properties.test_mods import test_before_a_softcap as capped
from properties.test_mods import test_mods as mods

from numba_flash.simulator import SIMULATED, MemoryFault
from numba_flash.testing.backends import SIMULATOR
from numba_flash.testing.tiles import tiny_tiles

from .mutant import Mutant

pytestmark = pytest.mark.skipif(not SIMULATED, reason="mutants live in the simulator")

DEVICE, SCORES = "device.mods", "device.scores"

MUTANTS = [
    Mutant("rows counted from the first one's place", DEVICE, "within(row0 + row_of(rg, {r}), Nq)", "within(row0, Nq)",
           mods),
    Mutant("columns of the tile", DEVICE, "within(col0 + column_of(cg, {c}), Nk)", "within(column_of(cg, {c}), Nk)",
           mods),
    Mutant("another head's", DEVICE, "results + \" = mod(s[{x}], b, h,", "results + \" = mod(s[{x}], b, 0,", capped),
    Mutant("the mask hides what it shows", DEVICE, "s[{x}] if mod(b, h, i{r}, j{c}) else NEG_INF",
           "NEG_INF if mod(b, h, i{r}, j{c}) else s[{x}]", mods),
    Mutant("the softcap forgets what came before", SCORES, "derivative[x] *= ONE - t * t",
           "derivative[x] = ONE - t * t", capped),
    Mutant("another batch entry's", DEVICE, "results + \" = mod(s[{x}], b, h,", "results + \" = mod(s[{x}], 0, h,",
           capped),
    Mutant("the mod is forgotten", SCORES, "        bend(s, derivative, rg, cg, row0, col0, Nq, Nk, b, h)\n", "",
           mods),
    Mutant("no slope", SCORES, "ds *= derivative[at(r, c)]", "pass", mods),
]  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_property_fails(mutant):
    with mutant.alive(), tiny_tiles(), pytest.raises((AssertionError, MemoryFault)):
        mutant.killed_by.search(SIMULATOR, max_examples=100, phases=[Phase.generate])


def test_the_original_does_not():
    """Made anew in the same way, but unchanged."""
    first = MUTANTS[0]
    with Mutant(first.name, first.module, first.old, first.old, mods).alive(), tiny_tiles():
        mods.search(SIMULATOR, max_examples=5)
        capped.search(SIMULATOR, max_examples=5)
