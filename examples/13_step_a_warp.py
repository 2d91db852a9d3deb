# %% [markdown]
# # 13. Step a warp through tensor cores
# In the simulator ldmatrix and mma are Python functions that the 32 lanes of a warp call together, so that pdb can step
# over them in the middle of the real kernel, numba_flash/kernels/flash2_mma_forward.py, and look into every lane's
# registers. This script does so, in a tile whose numbers say where they belong.
#
#     python examples/13_step_a_warp.py           # with the commands below typed for you
#     python examples/13_step_a_warp.py --pdb     # a prompt of your own; `c` goes to the next stop

# %%
import os

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"  # before numba is imported for the first time

import io
import pdb
import re
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
from greenlet import getcurrent
from numba import cuda

import numba_flash as nf
from numba_flash import reference, simulator
from numba_flash.device import fragments
from numba_flash.kernels import flash2_mma_forward

# %% [markdown]
# ## The operands
# 16 queries (r, 1, 0...) and 16 keys (100, c, 0...), so S[r, c] = 100 r + c: a score tells its row and its column. V is
# the identity, so O = P V is P. The tile is 128 x 64, four warps; what lies beyond the 16 x 16 is 0, or masked.

# %%
N = 16
Q, K, V = np.zeros((3, N, N), np.float16)
Q[:, 0], Q[:, 1] = range(N), 1
K[:, 0], K[:, 1] = 100, range(N)
np.fill_diagonal(V, 1)
SCALE = 0.1

# %% [markdown]
# ## A debugger for a warp
# The threads of a block take turns in the simulator, lane 31 of the first warp after the 31 others. This pdb stops in
# lane 31 alone: then each of the others waits for it at the next instruction that they execute together, with the
# registers of the last one filled. `lanes NAME LANE...` shows a local array in several of them.

# %%
LANE = 31
STOPS = [
    (fragments, "ldmatrix_x4(b, 0, Bs"),  # in S = Q K^T, when the fragment of Q is there
    (flash2_mma_forward, "round_to(p, s)"),  # when s is e^(s - m)
    (flash2_mma_forward, "finish(acc, m, l, global_view("),  # when acc is P V
]


class WarpDebugger(pdb.Pdb):
    """pdb in the thread that makes it; it stops once at each of STOPS."""

    def __init__(self, **streams):
        super().__init__(nosigint=True, readrc=False, **streams)
        self.thread = simulator.current()
        for module, text in STOPS:
            lines = Path(module.__file__).read_text().splitlines()
            self.set_break(module.__file__, 1 + next(n for n, line in enumerate(lines) if text in line), temporary=True)

    def trace_dispatch(self, frame, event, arg):
        return super().trace_dispatch(frame, event, arg) if getcurrent() is self.thread else None

    def do_lanes(self, arg):
        """lanes NAME LANE...

        The first eight numbers of a local array of this function in several lanes; words are pairs of float16.
        """
        name, *numbers = arg.split()
        for lane in map(int, numbers):
            thread = self.thread.block.threads[lane]
            frame = self.curframe if thread is self.thread else thread.gr_frame
            while frame.f_code is not self.curframe.f_code:
                frame = frame.f_back
            x = frame.f_locals[name]
            self.message(
                f"lane {lane:2}: {' '.join(f'{n:6.4g}' for n in (x.view('f2') if x.dtype == 'u4' else x)[:8])}"
            )


def run(**streams):
    """O from the kernel, with a WarpDebugger in lane 31."""

    def launch(kernel, *others):
        def entry(*arguments):
            if cuda.threadIdx.x == LANE:
                WarpDebugger(**streams).set_trace()
            kernel(*arguments)

        original(entry, *others)

    original = simulator.launch
    try:
        with patch.object(simulator, "launch", launch):
            return nf.flash_attention(Q, K, V, kernel="flash2_mma", scale=SCALE)
    finally:
        sys.settrace(None)


# %% [markdown]
# ## The session
# First stop, in device/fragments.py: `a` is a fragment of Q. As lesson 12 draws it, lane 0 has the left ends of rows 0
# and 8, lane 4 those of rows 1 and 9; the rest of Q is 0. ldmatrix brings the fragments of K: a lane points to eight
# elements, lane 31 to those of key 15 from column 8 on, which the swizzle has moved to 16. What it gets is its share of
# all that the 32 lanes point to: of keys 0 to 7, then of keys 8 to 15. Each mma then makes eight columns of S.
#
# Second stop, in the kernel: s is e^(s - m), m the maximum of a row, the same in the four lanes that share it; it is
# shown with the scale applied and times log2(e), since the hardware computes powers of 2. round_to makes two float16 of
# two float32, no more: p is P as a fragment of A, and no lane has asked another for anything.
#
# Third stop: acc is P V, which is P here. What is left is to divide it by l.

# %%
COMMANDS = """
c
p x, n
lanes a 0 1 4 31
p 8 * n + r, swizzled(r, x + c, depth)
n
lanes b 0 1 4 31
n
n
lanes s 0 1 4 31
n
lanes s 0 1 4 31
c
lanes m 0 1 4 31
lanes s 0 1 4 31
n
lanes p 0 1 4 31
c
lanes acc 0 1 4 31
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


if "--pdb" in sys.argv:
    O = run()
else:
    screen = io.StringIO()
    O = run(stdin=Typed(COMMANDS.lstrip(), screen), stdout=screen)
    print(re.sub(r"(> |at )/.*/", r"\1", screen.getvalue()))
exact = reference.attention(Q[None], K[None], V[None], scale=SCALE)[0][0]
print(f"largest error of the kernel that was stepped through: {np.abs(O - exact).max():.1e}")
