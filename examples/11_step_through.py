# %% [markdown]
# # 11. Step through a kernel, and see a race
# The simulator runs a kernel thread by thread in Python, so that pdb can stop inside of it. This script steps through a
# small FlashAttention kernel and looks at its tiles, then removes its barriers one by one.
#
#     python examples/11_step_through.py           # with the commands below typed for you
#     python examples/11_step_through.py --pdb     # a prompt of your own, in block 0, thread 0

# %%
import os

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"  # before numba is imported for the first time

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
        m_new = max(m, s.max())
        alpha, p = math.exp(m - m_new), np.exp(s - m_new)
        m, l, acc = m_new, alpha * l + p.sum(), alpha * acc + p @ Vj
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
# `n` steps over a line, barriers included, and stays in its thread. The state is what pdb's `p` prints: at the first
# tile m, l, acc are empty; after it they hold the attention over four keys; `c` goes on to the next tile.

# %%
COMMANDS = """
p j, r, Kj.tolist()
p m, l, acc.tolist()
until LAST
p j, s.round(2).tolist()
p m_new, alpha, p.round(3).tolist()
n
p m, l, acc.tolist()
c
p j, m, l, (acc / l).tolist()
c
"""


def scripted_session():
    """What pdb shows for COMMANDS; LAST is the line that updates the state."""
    lines, begin = open(__file__).read().split("\n"), attend.__code__.co_firstlineno
    last = next(n for n, line in enumerate(lines, 1) if n > begin and "m, l, acc = m_new" in line)
    screen = io.StringIO()
    typed = io.StringIO(COMMANDS.replace("LAST", str(last)).lstrip())
    debugger = pdb.Pdb(stdin=typed, stdout=screen, nosigint=True, readrc=False)
    debugger.prompt = "(Pdb) "

    def stop():
        debugger.set_trace(sys._getframe(1))

    O = run(stop=stop)
    return O, screen.getvalue()


if "--pdb" in sys.argv:
    run(stop=lambda: pdb.Pdb(nosigint=True).set_trace(sys._getframe(1)))
O, session = scripted_session()
print(re.sub(r"> .*/", "> ", session))
print(f"largest error of the kernel that was stepped through: {np.abs(O - exact).max():.1e}")
