# %% [markdown]
# # 5. Matrix products: how often is a number loaded?
# C = A B takes 2 M N K flops whatever the program does. What differs is how many numbers it loads for them, and from
# where. Three kernels, each written as what its threads do, on arrays that count every number read from them.

# %%
import numpy as np
from pictures import picture

M = N = K = 32
FLOPS = 2 * M * N * K


class Counted:
    """An array that counts the numbers read from it."""

    def __init__(self, values):
        self.values, self.reads = np.array(values), 0

    def __getitem__(self, place):
        part = self.values[place]
        self.reads += part.size
        return part


rng = np.random.default_rng(0)
a_values, b_values = rng.standard_normal((M, K)), rng.standard_normal((K, N))
counts = {}


def run(name, multiply, **tiles):
    """Run a product on fresh counted arrays; note its loads for each flop."""
    A, B, C = Counted(a_values), Counted(b_values), np.zeros((M, N))
    shared_reads = multiply(A, B, C, **tiles)
    assert np.allclose(C, a_values @ b_values)
    counts[name] = (A.reads + B.reads) / FLOPS, shared_reads / FLOPS
    print(f"{name:32} {counts[name][0]:8.4f} {counts[name][1]:8.4f}")


print(f"{'numbers loaded for each flop from':32} {'global':>8} {'shared':>8}")

# %% [markdown]
# ## Naive: a thread for each element of C
# Each multiplication and addition needs two numbers, and both come from global memory: one load for each flop.


# %%
def naive(A, B, C):
    """Thread (row, col) forms one dot product."""
    for row in range(M):
        for col in range(N):
            for x in range(K):
                C[row, col] += A[row, x] * B[x, col]
    return 0


run("naive", naive)

# %% [markdown]
# ## Tiled: a block of T x T threads shares its tiles
# The T threads of a row of C need the same row of A. Together they load a T x T tile of A and one of B into shared
# memory, a number each, and then each number is used T times. Global loads fall by T; the two loads of each
# multiplication now come from shared memory.


# %%
def tiled(A, B, C, T):
    """Block (row0, col0), thread (r, c): C[row0 + r, col0 + c]."""
    shared_reads = 0
    for row0 in range(0, M, T):
        for col0 in range(0, N, T):
            for x0 in range(0, K, T):
                As, Bs = Counted(A[row0 : row0 + T, x0 : x0 + T]), Counted(B[x0 : x0 + T, col0 : col0 + T])
                for r in range(T):
                    for c in range(T):
                        for x in range(T):
                            C[row0 + r, col0 + c] += As[r, x] * Bs[x, c]
                shared_reads += As.reads + Bs.reads
    return shared_reads


for T in (4, 8, 16):
    run(f"tiled, T = {T}", tiled, T=T)

# %% [markdown]
# ## Register tiles: a thread owns TM x TN elements
# A thread that owns TM x TN elements of C keeps them in registers. For each x it reads TM numbers of A and TN of B from
# shared memory and makes TM * TN products of them: an outer product. Shared loads fall by the same trick.


# %%
def register_tiled(A, B, C, T, TM, TN):
    """Thread (r, c) of block (row0, col0) owns the TM x TN elements at (row0 + r, col0 + c)."""
    shared_reads = 0
    for row0 in range(0, M, T):
        for col0 in range(0, N, T):
            for x0 in range(0, K, T):
                As, Bs = Counted(A[row0 : row0 + T, x0 : x0 + T]), Counted(B[x0 : x0 + T, col0 : col0 + T])
                for r in range(0, T, TM):
                    for c in range(0, T, TN):
                        acc = C[row0 + r : row0 + r + TM, col0 + c : col0 + c + TN]
                        for x in range(T):
                            a, b = As[r : r + TM, x], Bs[x, c : c + TN]
                            acc += a[:, None] * b
                shared_reads += As.reads + Bs.reads
    return shared_reads


for TM in (2, 4, 8):
    run(f"T = 16, registers {TM} x {TM}", register_tiled, T=16, TM=TM, TN=TM)

# %% [markdown]
# ## What that means on a GPU
# An H100 makes 67 Tflop/s in float32, and its memory brings 3.35 TB/s, 0.84 T numbers. A program that loads more than
# 0.84 / 67 = 0.0125 numbers for each flop waits for memory. Blocks of 128 x 128 are on the good side of that line.

# %%
PEAK, BANDWIDTH = 67e12, 3.35e12  # float32 flop/s and bytes/s of an H100 SXM
print("\nthe most that global memory allows on an H100, float32")
limits = {}
for T in (1, 16, 32, 64, 128):
    limits[T] = min(PEAK, BANDWIDTH / 4 * T) / 1e12
    print(f"{T:4} x {T:<4} {1 / T:7.4f} loads for each flop {limits[T]:6.1f} Tflop/s")


# %%
def draw(plt):
    """Loads for each flop from global and from shared memory, a bar each."""
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    places = np.arange(len(counts))
    for n, memory in enumerate(("global", "shared")):
        axes.barh(places + 0.4 * n, [count[n] for count in counts.values()], 0.4, label=memory)
    axes.set_yticks(places + 0.2, counts)
    axes.invert_yaxis()
    axes.set(xlabel="numbers loaded for each flop")
    axes.legend()
    return figure


picture(draw)
