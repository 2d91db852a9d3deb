# %% [markdown]
# # 11. Step through a kernel, and see a race
# The simulator runs a kernel thread by thread in Python, so that pdb can stop inside of it. This script steps through a
# small FlashAttention kernel and looks at its tiles, then takes its barriers away, one by one. The kernel uses NumPy
# where a compiled one has loops; everything else is as in numba_flash/kernels, which can be stepped through as well.
#
#     python examples/11_step_through.py           # with the commands below typed for you
#     python examples/11_step_through.py --pdb     # a prompt of your own, in block 0, thread 0

# %%
import os

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"  # before numba is imported for the first time

import inspect
import io
import math
import pdb
import re
import sys

import numpy as np
from numba import cuda, float32

from numba_flash import reference, simulator

Br, Bc, D = 4, 4, 2  # a block: 4 queries, a thread each, meeting 4 keys at a time

# %% [markdown]
# ## The kernel
# A thread owns a query: its m, l and acc are registers. The keys and values come in tiles that the threads load
# together, a row each, so there are two barriers: nobody may read a tile before it is there, and nobody may load the
# next before all have read this one. `full` and `free` say whether the kernel waits at them; `stop` is called in
# thread 0, once a tile.


# %%
def attend(Q, K, V, O, full, free, stop):
    Kj, Vj = cuda.shared.array((Bc, D), float32), cuda.shared.array((Bc, D), float32)
    r = cuda.threadIdx.x
    row = cuda.blockIdx.x * Br + r
    m, l, acc = -math.inf, 0.0, np.zeros(D)
    for j in range(len(K) // Bc):
        Kj[r], Vj[r] = K[j * Bc + r], V[j * Bc + r]
        if full:
            cuda.syncthreads()  # Kj, Vj are written before anyone reads them
        if row == 0:
            stop()
        s = Kj @ Q[row]  # (Bc,)
        m_new = max(m, float(s.max()))
        alpha, p = math.exp(m - m_new), np.exp(s - m_new)
        m, l, acc = m_new, alpha * l + float(p.sum()), alpha * acc + p @ Vj
        if free:
            cuda.syncthreads()  # everyone has read Kj, Vj before they change
    O[row] = acc / l


def run(full=True, free=True, stop=lambda: None, seed=None):
    """O from one launch over all query blocks, threads in an order drawn from `seed` (None: in turn)."""
    O = np.full_like(Q, np.nan)
    with simulator.options(seed=seed):
        simulator.launch(attend, len(Q) // Br, Br, 0, (Q, K, V, O, full, free, stop))
    return O


rng = np.random.default_rng(0)
Q, K, V = rng.standard_normal((3, 8, D)).astype(np.float32).round(1)
exact = reference.attention(Q[None], K[None], V[None], scale=1)[0][0]

# %% [markdown]
# ## A session with pdb
# `p` prints, `until` runs to a line, `n` steps over one, barriers included, and stays in its thread; `c` goes on to the
# next tile. At the first tile m, l, acc are empty; afterwards they hold the attention over four keys, then over all.

# %%
COMMANDS = """
p j, r
p Kj
p m, l, acc
until LAST
p s
p m_new, alpha, p
n
p m, l, acc
c
p j, m, l, acc / l
c
"""


class Typed(io.StringIO):
    """Input that shows on the screen, as if it were typed there."""

    def __init__(self, text, screen):
        super().__init__(text)
        self.screen = screen

    def readline(self):
        line = super().readline()
        self.screen.write(line)
        return line


def scripted_session():
    """O, and what the screen shows for COMMANDS; LAST is the line that updates the state."""
    lines, first = inspect.getsourcelines(attend)
    last = first + next(n for n, line in enumerate(lines) if "m, l, acc = m_new" in line)
    screen = io.StringIO()
    typed = Typed(COMMANDS.replace("LAST", str(last)).lstrip(), screen)
    debugger = pdb.Pdb(stdin=typed, stdout=screen, nosigint=True, readrc=False)
    O = run(stop=lambda: debugger.set_trace(sys._getframe(1)))
    return O, re.sub(r"> .*/", "> ", screen.getvalue())


np.set_printoptions(precision=3, suppress=True)
if "--pdb" in sys.argv:
    O, session = run(stop=lambda: pdb.Pdb(nosigint=True).set_trace(sys._getframe(1))), ""
else:
    O, session = scripted_session()
print(session)
print(f"largest error of the kernel that was stepped through: {np.abs(O - exact).max():.1e}")

# %% [markdown]
# ## Without a barrier
# On a GPU a race is a wrong number now and then, on some machines. The simulator's threads take turns in a fixed order,
# or in one drawn from a seed, and shared memory is NaN until it is written. So a race is a wrong number every time:
# without the first barrier a thread reads rows of the tile that are not there yet; without the second one, a thread
# that is ahead loads the next tile over the one that others are still to read.

# %%
races = {}
print(f"\n{'barriers':22} {'thread order':13} {'largest error':>13}   the same again")
CASES = {"both": (True, True), "no first, tile full": (False, True), "no second, tile free": (True, False)}
for name, (full, free) in CASES.items():
    for seed in (None, 1):
        one, other = (run(full, free, seed=seed) for _ in range(2))
        races[name, seed] = error = float(np.abs(one - exact).max()), one.tobytes() == other.tobytes()
        print(f"{name:22} {'in turn' if seed is None else f'seed {seed}':13} {error[0]:13.1e}   {error[1]}")

# %% [markdown]
# ## A barrier that not all threads reach
# On a GPU that hangs, or worse, it does not. Here it is an error that names the threads.


# %%
def divergent():
    if cuda.threadIdx.x < 3:
        cuda.syncthreads()  # the others have returned


try:
    simulator.launch(divergent, 1, Br, 0, ())
except simulator.DivergentBarrier as error:
    message = str(error)
    print(f"\n{message}")
