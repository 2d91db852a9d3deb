# %% [markdown]
# # 12. Tensor cores: which lane holds what, and where it lies
# A tensor core multiplies a 16 x 16 by a 16 x 8 matrix in one instruction, mma.m16n8k16. No thread has such a matrix:
# the 32 lanes of a warp hold it together, a few elements each, its fragment. This script prints who holds what, counts
# the bank conflicts of loading it from shared memory, and multiplies two matrices with the kernel that is made of both,
# numba_flash/kernels/matmul_mma.py, in the simulator (with NUMBA_ENABLE_CUDASIM=0: on a GPU).

# %%
import os

os.environ.setdefault("NUMBA_ENABLE_CUDASIM", "1")  # before numba is imported for the first time; 0 to use a GPU

import numpy as np
from pictures import picture

import numba_flash as nf
from numba_flash.simulator import SIMULATED
from numba_flash.testing import allowed_error, naive_matmul, turns_to_load, turns_to_store
from numba_flash.tiling import a_place, accumulator_place, b_place, holders, swizzle

# %% [markdown]
# ## Fragments
# Of A (16 x 16) a lane has eight elements, of B (16 x 8) four, of C (16 x 8) four. Neighbours in a row of A, or in a
# column of B, share a 32-bit register. The four lanes 4g to 4g + 3 own rows g and g + 8 of A and C, and column g of B.

# %%
SHAPES = {"A": (16, 16), "B": (16, 8), "C": (16, 8)}
PLACES = {"A": a_place, "B": b_place, "C": accumulator_place}
COUNTS = {"A": 8, "B": 4, "C": 4}
held = {name: holders(PLACES[name], COUNTS[name]) for name in SHAPES}


def lanes(name):
    """The lane of each element of A, B or C."""
    rows, columns = SHAPES[name]
    return np.array([[held[name][r, c][0] for c in range(columns)] for r in range(rows)])


print("the lane that holds each element")
print("     ".join(f"{name:{3 * SHAPES[name][1]}}" for name in SHAPES))
for rows in zip(*(lanes(name) for name in SHAPES), strict=True):
    print("     ".join("".join(f"{lane:3}" for lane in row) for row in rows))
for name, place in PLACES.items():
    print(f"lane 5 holds of {name}: " + ", ".join(str(place(5, n)) for n in range(COUNTS[name])))

# %% [markdown]
# ## Why attention fits
# S = Q K^T comes out of tensor cores as C does, and P = softmax(S) goes into the next product, O = P V, as A does. Two
# C side by side are as large as one A, and every lane holds the same elements of both: P never leaves its registers.

# %%
side_by_side = np.concatenate([lanes("C"), lanes("C")], axis=1)
same_lanes = bool((side_by_side == lanes("A")).all())
print(f"\ntwo C side by side lie in the same lanes as one A: {same_lanes}")

# %% [markdown]
# ## Bank conflicts
# ldmatrix loads fragments from shared memory, four 8 x 8 matrices at a time: each lane points to eight elements, 16
# bytes, of one row. Shared memory serves 128 bytes a turn, if they lie in different banks: the eight rows of a matrix
# at best, so four turns for 32 lanes. In plain rows of 128 bytes everything in a column lies in the same banks. There
# are two ways out: 16 bytes more to each row, which cost shared memory, or a swizzle, which costs none: the chunks of
# 16 bytes change places within their row, chunk c of row r of 64 elements going to c XOR r.

# %%
CHUNK = 8  # elements of 16 bytes


def row_major(columns):
    """The byte address of element (r, c) of 16 bits, in plain rows."""
    return lambda r, c: 2 * (r * columns + c)


def padded(columns):
    """The same, 16 bytes more to each row."""
    return row_major(columns + CHUNK)


def swizzled(columns):
    """The same in plain rows whose chunks change places."""
    place = row_major(columns)
    return lambda r, c: place(r, CHUNK * swizzle(r, c // CHUNK, columns // CHUNK) + c % CHUNK)


LAYOUTS = {"row-major": row_major, "padded": padded, "swizzled": swizzled}
WIDTHS, ROWS = (16, 32, 64, 128, 256), 64
print("\nwhere the eight chunks of 16 bytes of a row of 64 elements lie, swizzled")
for r in range(8):
    print(f"row {r}: " + " ".join(f"{swizzled(64)(r, CHUNK * chunk) % 128 // 16}" for chunk in range(8)))

turns, nbytes = {}, {}
print(f"\n{'turns of a warp that':28}" + "loads four matrices   stores whole rows     KB of 64 rows")
print(f"{'elements in a row':26}" + "   ".join("".join(f"{width:4}" for width in WIDTHS) for _ in range(3)))
for name, layout in LAYOUTS.items():
    for width in WIDTHS:
        turns[name, width] = tuple(count(layout(width), ROWS, width) for count in (turns_to_load, turns_to_store))
        nbytes[name, width] = layout(width)(ROWS, 0)
    rows = [[turns[name, width][n] for width in WIDTHS] for n in range(2)]
    rows.append([nbytes[name, width] / 1024 for width in WIDTHS])
    print(f"{name:26}" + "   ".join("".join(f"{x:4.0f}" for x in row) for row in rows))

# %% [markdown]
# ## A product
# matmul_mma copies tiles of A and B to swizzled shared memory, asynchronously, while it multiplies those that are there
# with ldmatrix and mma. A block of eight warps makes 128 x 256 elements of C; beyond the edges of A and B it meets
# zeros. In the simulator each instruction is a Python function, and the whole product takes a second.

# %%
rng = np.random.default_rng(0)
A, B = (rng.standard_normal(shape).astype(np.float16) for shape in ((100, 72), (72, 130)))
C = nf.matmul(A, B, kernel="matmul_mma", out_dtype="float32")
exact = A.astype(np.float64) @ B.astype(np.float64)
error, allowed = float(np.abs(C - exact).max()), allowed_error(exact, naive_matmul(A, B, C.dtype), C.dtype)
where = "in the simulator" if SIMULATED else "on the GPU"
print(f"\n{A.shape} @ {B.shape} of float16 {where}: largest error {error:.1e}, allowed {allowed:.1e}")


# %%
def draw(plt):
    """The lanes of A, B and C, and the turns that loads take."""
    figure, axes = plt.subplots(1, 4, figsize=(15, 5), layout="constrained", width_ratios=[16, 8, 8, 16])
    for axis, name in zip(axes, SHAPES, strict=False):
        axis.imshow(lanes(name), cmap="rainbow", alpha=0.6)
        for (r, c), (lane, _) in held[name].items():
            axis.text(c, r, lane, ha="center", va="center", fontsize=7)
        axis.set(title=f"lanes that hold {name}", xticks=[], yticks=[])
    for n, name in enumerate(LAYOUTS):
        places = np.arange(len(WIDTHS)) + 0.27 * (n - 1)
        axes[3].bar(places, [turns[name, width][0] for width in WIDTHS], 0.27, label=name)
    axes[3].set_xticks(range(len(WIDTHS)), [str(width) for width in WIDTHS])
    axes[3].set(title="turns to load four 8 x 8 matrices", xlabel="elements in a row")
    axes[3].legend()
    return figure


picture(draw)
