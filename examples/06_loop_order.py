# %% [markdown]
# # 6. The order of the tiles: FlashAttention-1 against FlashAttention-2
# Both cut S = Q K^T into tiles, Br queries by Bc keys, and visit each tile once. FlashAttention-1 has the keys in its
# outer loop: it loads K_j and V_j once and walks over all queries, whose O, l and m it must fetch and put back for each
# tile. FlashAttention-2 has the queries outside: O, l and m of a query block stay in registers until the row is done,
# and rows do not depend on one another, so the outer loop can be the grid.

# %%
import numpy as np
from pictures import picture

from numba_flash.algorithms import flash1_forward, flash2_forward
from numba_flash.tiling import band, cdiv, key_blocks, query_blocks

N, Br, Bc = 96, 8, 8
Tr, Tc = cdiv(N, Br), cdiv(N, Bc)
MASKS = {
    "every key": band(N, N, causal=False, q_offset=0, window=None),
    "causal": band(N, N, causal=True, q_offset=0, window=None),
    "causal, window of 24": band(N, N, causal=True, q_offset=0, window=(24, 0)),
}


def flash1_order(first, last):
    """The tiles (i, j) as FlashAttention-1 visits them; blocks that no query sees are left out."""
    return [(i, j) for j in range(Tc) for i in range(*query_blocks(j, Br, Bc, N, N, first, last))]


def flash2_order(first, last):
    """The tiles (i, j) as FlashAttention-2 visits them, one block of the grid after the other."""
    return [(i, j) for i in range(Tr) for j in range(*key_blocks(i, Br, Bc, N, N, first, last))]


def steps(order):
    """(Tr, Tc): the step that visits a tile, NaN for a tile that is never visited."""
    step = np.full((Tr, Tc), np.nan)
    for n, tile in enumerate(order):
        step[tile] = n
    return step


# %% [markdown]
# ## In numbers
# The step of each tile, causal. FlashAttention-1 goes down the columns, FlashAttention-2 along the rows.


# %%
def as_text(step):
    """A line for each query block, a dot for a tile that is left out."""
    return ["".join("   ." if np.isnan(n) else f"{int(n):4}" for n in row) for row in step]


orders = {
    name: {"FlashAttention-1": flash1_order(*limits), "FlashAttention-2": flash2_order(*limits)}
    for name, limits in MASKS.items()
}
for algorithm, order in orders["causal"].items():
    print(algorithm)
    print("\n".join(as_text(steps(order))))

# %% [markdown]
# ## What the order costs
# A block of the outer loop moves once, one of the inner loop at every tile. FlashAttention-1 reads and writes O, l, m
# at every tile; FlashAttention-2 writes O once a row, and reads K and V at every tile instead, which it only reads.


# %%
def transfers(algorithm, order):
    """How many blocks of each operand move between global memory and the chip."""
    tiles, rows, columns = len(order), len({i for i, _ in order}), len({j for _, j in order})
    if algorithm == "FlashAttention-1":
        return {"Q read": tiles, "K, V read": columns, "O, l, m read": tiles, "O, l, m written": tiles}
    return {"Q read": rows, "K, V read": tiles, "O, l, m read": 0, "O, l, m written": rows}


moved = {}
for name, by_algorithm in orders.items():
    print(f"\n{name}: {len(by_algorithm['FlashAttention-1'])} tiles")
    for algorithm, order in by_algorithm.items():
        moved[name, algorithm] = counts = transfers(algorithm, order)
        print(f"  {algorithm}: " + ", ".join(f"{operand} {count}" for operand, count in counts.items()))

# %% [markdown]
# ## The result is the same
# By the law of script 4 a row may meet its keys in any order, and in these two it meets them in the same one.

# %%
Q, K, V = np.random.default_rng(0).standard_normal((3, N, 16))
differences = {}
for name, (first, last) in MASKS.items():
    options = {"Br": Br, "Bc": Bc, "scale": 0.25, "first": first, "last": last}
    (one, _), (two, _) = flash1_forward(Q, K, V, **options), flash2_forward(Q, K, V, **options)
    differences[name] = float(np.abs(one - two).max())
    print(f"{name}: O of the two algorithms differs by {differences[name]:.1e}")

# %% [markdown]
# ## In parallel
# One more reason, and the greater one: with the rows as the grid, B * H * Tr blocks run at the same time, where
# FlashAttention-1 has B * H. Causal rows differ in length, so the longest start first: here four multiprocessors take a
# row each whenever they are free.


# %%
def finish_time(rows, workers=4):
    """Steps until all rows are done, each taken by the worker that is free first."""
    free = [0] * workers
    for row in rows:
        free.sort()
        free[0] += row
    return max(free)


lengths = [sum(i == row for i, _ in orders["causal"]["FlashAttention-2"]) for row in range(Tr)]
shortest_first, longest_first = finish_time(lengths), finish_time(lengths[::-1])
print(f"\n{sum(lengths)} causal tiles on 4 multiprocessors: {shortest_first} steps with the shortest row first,")
print(f"{longest_first} with the longest first; {sum(lengths) / 4:g} would be perfect")


# %%
def draw(plt):
    """The step of each tile as its colour: a row of pictures for each algorithm."""
    figure, grid = plt.subplots(2, len(MASKS), figsize=(11, 7), layout="constrained")
    for column, (name, by_algorithm) in enumerate(orders.items()):
        for axes, (algorithm, order) in zip(grid[:, column], by_algorithm.items(), strict=True):
            image = axes.imshow(steps(order) / len(order), vmin=0, vmax=1)
            axes.plot([j for _, j in order], [i for i, _ in order], color="white", linewidth=0.5)
            axes.set(title=f"{algorithm}\n{name}", xlabel="key block j", ylabel="query block i")
    figure.colorbar(image, ax=grid, label="step / number of steps", shrink=0.6)
    return figure


picture(draw)
