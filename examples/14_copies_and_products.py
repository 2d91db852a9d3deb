# %% [markdown]
# # 14. One warp copies, warpgroups multiply
# flash3_forward (numba_flash/kernels/flash3_forward.py) has no barrier at which all threads meet. A warp starts copies
# of whole tiles; two warpgroups, four warps each, start products and take exponentials. They know of each other
# through barriers in shared memory: a tile is *full* when its copy has landed, *free* when everyone has multiplied it.
# This script runs the kernel in the simulator, writes down who does what in which order, and then leaves out waits.
#
#     python examples/14_copies_and_products.py

# %%
import os

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"  # before numba is imported for the first time

from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import numpy as np

import numba_flash as nf
from numba_flash import reference, simulator
from numba_flash.config import WarpgroupTiles, WgmmaTiles
from numba_flash.kernels import flash3_forward as page
from numba_flash.testing.tiles import warpgroup_tiles

Br, Bc, D, STAGES = 128, 16, 64, 2
TILES = WarpgroupTiles(Br, Bc, D, D, STAGES)
rng = np.random.default_rng(0)
q, k, v = (rng.standard_normal((n, D)).astype(np.float16) for n in (Br, 5 * Bc, 5 * Bc))
(exact,), _ = reference.attention(*(x[None] for x in (q, k, v)))


def run(**how):
    """O, from the kernel in the simulator."""
    with warpgroup_tiles(TILES, WgmmaTiles(64, 64, 2)), simulator.options(**how):
        return nf.flash_attention(q, k, v, kernel="flash3")


# %% [markdown]
# ## Who does what
# The instructions are Python functions, so each can be wrapped. Of every role one thread is watched: the one that
# copies, and the first of either warpgroup. Barriers lie behind all tiles: those of K, those of V, then Q's.

# %%
TILE = Bc * 128  # bytes: rows of 64 numbers
BARRIERS = simulator.BASE + Br * 128 + STAGES * 2 * TILE
NAMES = [*(f"{x} {what} {n}" for x in "KV" for what in ("full", "free") for n in range(STAGES)), "Q full", "Q free"]
ROLES = {0: "copies", 128: "warpgroup 1", 256: "warpgroup 2"}


def name_of(barrier):
    """As in `K full 1`: of stage 1."""
    return NAMES[(barrier - BARRIERS) // 8]


@contextmanager
def watched(events):
    """Note what the watched threads do, after they have done it."""
    latest = {}

    def note(words, function):
        def noting(*args):
            result = function(*args)
            role = ROLES.get(simulator.current().index)
            if role:
                latest[role] = words(*args, after=latest.get(role, ""))
                events.append((role, latest[role]))
            return result

        return noting

    notes = {
        "mbarrier_expect": lambda barrier, nbytes, after: f"copies {name_of(barrier).replace(' full', '')}",
        "mbarrier_wait": lambda barrier, parity, after: f"{name_of(barrier)}",
        "mbarrier_arrive": lambda barrier, after: f"{name_of(barrier)}: arrives",
        "wgmma_wait": lambda pending, after: "S is there" if pending else "all products are done",
        "await_number": lambda x, after: "goes on" if after.endswith("arrives") else "has its exponentials",
        "barrier_sync": lambda number, threads, after: "its turn to start products",
    }
    with ExitStack() as stack:
        for name, words in notes.items():
            stack.enter_context(patch.object(page, name, note(words, getattr(page, name))))
        yield


events = []
with watched(events):
    error = float(np.abs(run() - exact).max())
print(f"{'copies':24}{'warpgroup 1':32}warpgroup 2")
for role, words in events:
    place = list(ROLES.values()).index(role)
    print(f"{' ' * (0, 24, 56)[place]}{words}")
print(f"\nlargest error: {error:.1e}")

# %% [markdown]
# ## Without a wait
# A copy may land any time between its start and the wait for it, and a product may read its tiles any time until it is
# waited for. The simulator runs the extremes: everything late, everything early, or, crossed, copies early and products
# late. Each of these mistakes is an error or a wrong number in some of them, every time. On a GPU it may be right for
# years.


# %%
def without(name, unwanted):
    """The kernel with one of its waits left out, where `unwanted(argument)` says so."""
    original = getattr(page, name)
    return patch.object(page, name, lambda *args: None if unwanted(args[0]) else original(*args))


MISTAKES = {
    "none": without("mbarrier_wait", lambda barrier: False),
    "V is not waited for": without("mbarrier_wait", lambda barrier: name_of(barrier).startswith("V full")),
    "K is copied before it is free": without("mbarrier_wait", lambda barrier: name_of(barrier).startswith("K free")),
    "V is copied before it is free": without("mbarrier_wait", lambda barrier: name_of(barrier).startswith("V free")),
}
print(f"\n{'mistake':32}{'late':>12}{'early':>12}{'crossed':>12}")
errors = {}
for name, mistake in MISTAKES.items():
    for landing in ("late", "early", "crossed"):
        try:
            with mistake:
                errors[name, landing] = float(np.abs(run(landing=landing) - exact).max())
        except (simulator.MemoryFault, simulator.Deadlock) as found:
            errors[name, landing] = type(found).__name__
    figures = [errors[name, landing] for landing in ("late", "early", "crossed")]
    print(f"{name:32}" + "".join(f"{x:>12}" if isinstance(x, str) else f"{x:12.1e}" for x in figures))
