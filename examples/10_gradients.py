# %% [markdown]
# # 10. Gradients without the probabilities
# With S = scale Q K^T, P = softmax(S) and O = P V, the gradients of a loss with dO = dLoss/dO are
#
#     dV = P^T dO,   dP = dO V^T,   dS = P * (dP - rowsum(P * dP)),   dQ = scale dS K,   dK = scale dS^T Q
#
# They need P, which is N x N. FlashAttention keeps one number for each row instead, LSE = m + log l, since
#
#     P = e^(S - LSE)
#
# recomputes any tile of P from a tile of Q and one of K. The row sum too needs no P, because with O = P V
#
#     D = rowsum(P * dP) = rowsum(dO * O)
#
# which the kernels call delta.

# %%
import tracemalloc

import numpy as np
from pictures import picture

from numba_flash import reference
from numba_flash.algorithms import flash2_backward, flash2_forward
from numba_flash.tiling import band

rng = np.random.default_rng(0)


def problem(N, d=4, causal=True):
    """Q, K, V, dO (N, d) in float64, and the options of the tiled algorithms."""
    first, last = band(N, N, causal, 0, None)
    return rng.standard_normal((4, N, d)), {"scale": d**-0.5, "first": first, "last": last}


# %% [markdown]
# ## The two identities, in numbers

# %%
N = 13
(Q, K, V, dO), options = problem(N)
O, LSE = flash2_forward(Q, K, V, Br=4, Bc=4, **options)
S = reference.scores(Q[None], K[None], causal=True)[0]
P = reference.softmax(S)
identities = {
    "e^(S - LSE) - P": float(np.abs(np.exp(S - LSE[:, None]) - P).max()),
    "rowsum(dO * O) - rowsum(P * dP)": float(np.abs((dO * O).sum(axis=1) - (P * (dO @ V.T)).sum(axis=1)).max()),
}
for name, difference in identities.items():
    print(f"largest |{name}| {difference:.1e}")

# %% [markdown]
# ## Against finite differences
# Nothing is more convincing than moving each number a little, both ways, and looking at the loss sum(dO * O). The
# forward here is the definition, so this tests the formulas and the tiles at once.


# %%
def loss(Q, K, V):
    return (dO * reference.attention(Q[None], K[None], V[None], causal=True)[0][0]).sum()


def finite_differences(operands, which, step=1e-5):
    """d loss / d operands[which], one element after the other; its error is about step**2."""
    gradient = np.empty_like(operands[which])
    for place in np.ndindex(gradient.shape):
        losses = []
        for sign in (1, -1):
            moved = [x.copy() for x in operands]
            moved[which][place] += sign * step
            losses.append(loss(*moved))
        gradient[place] = (losses[0] - losses[1]) / (2 * step)
    return gradient


gradients = flash2_backward(dO, Q, K, V, O, LSE, Br=4, Bc=4, **options)
errors = {}
print(f"\n{'':3} {'largest':>10} {'difference from finite differences':>36}")
for which, name in enumerate(("dQ", "dK", "dV")):
    errors[name] = float(np.abs(gradients[which] - finite_differences((Q, K, V), which)).max())
    print(f"{name:3} {np.abs(gradients[which]).max():10.4f} {errors[name]:36.1e}")

# %% [markdown]
# ## Memory
# The most that each way allocates at a time, measured. The plain formula holds S, P, dP, dS at once, so twice the N is
# four times the memory. The tiled one holds its results, which grow with N, and a few tiles, which do not.


# %%
def plain_backward(dO, Q, K, V, scale):
    """The formulas at the top, without a mask."""
    S = scale * Q @ K.T
    P = np.exp(S - S.max(axis=1, keepdims=True))
    P /= P.sum(axis=1, keepdims=True)
    dP = dO @ V.T
    dS = P * (dP - (P * dP).sum(axis=1, keepdims=True))
    return scale * dS @ K, scale * dS.T @ Q, P.T @ dO


def peak_bytes(function, *args, **options):
    """The most memory held at a time during a call, beyond what was there before: the least of three calls.

    tracemalloc counts what every thread allocates, so another's work may add to one call; to all three, hardly.
    """
    peaks = []
    for _ in range(3):
        tracemalloc.start()
        function(*args, **options)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return min(peaks)


LENGTHS, memory = (256, 512, 1024), {"plain": [], "tiled": []}
print(f"\n{'N':>5} {'plain, KB':>10} {'tiled, KB':>10}   d = 32, float64")
for N in LENGTHS:
    (Q, K, V, dO), options = problem(N, d=32, causal=False)
    O, LSE = flash2_forward(Q, K, V, Br=32, Bc=32, **options)
    memory["plain"].append(peak_bytes(plain_backward, dO, Q, K, V, options["scale"]))
    memory["tiled"].append(peak_bytes(flash2_backward, dO, Q, K, V, O, LSE, Br=32, Bc=32, **options))
    print(f"{N:5} {memory['plain'][-1] / 1024:10,.0f} {memory['tiled'][-1] / 1024:10,.0f}")


# %%
def draw(plt):
    """Peak memory against N."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, peaks in memory.items():
        axes.loglog(LENGTHS, np.array(peaks) / 2**20, "o-", label=name)
    axes.set(xlabel="N", ylabel="MB", title="most memory held by the backward, d = 32, float64")
    axes.set_xticks(LENGTHS, LENGTHS)
    axes.minorticks_off()
    axes.legend()
    return figure


picture(draw)
