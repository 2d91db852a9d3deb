# %% [markdown]
# # 3. From softmax to attention: two passes, then one
# Row k of attention is a weighted mean of the rows of V, with weights a = softmax(Q[k,:] K^T). The online softmax needs
# two passes over the keys, since a_i needs the final m_N and d'_N. Its second pass can do V's product on the way:
#
#     x_i  = Q[k,:] K^T[:,i]                                      first pass
#     m_i  = max(m_(i-1), x_i)
#     d'_i = d'_(i-1) e^(m_(i-1) - m_i) + e^(x_i - m_i)
#
#     a_i  = e^(x_i - m_N) / d'_N                        (6)      second pass
#     o_i  = o_(i-1) + a_i V[i,:]                        (7)

# %%
import numpy as np
from pictures import picture

from numba_flash import reference
from numba_flash.algorithms import attention_one_pass, attention_two_pass


def two_passes(q, K, V):
    """o_i for every i, the last of them the result. The scores x_i are kept between the passes: N numbers a query."""
    N, dtype = len(K), V.dtype
    m, d, x = dtype.type(-np.inf), dtype.type(0), np.empty(N, dtype)
    for i in range(N):
        x[i] = q @ K[i]
        m_new = max(m, x[i])
        d = d * np.exp(m - m_new) + np.exp(x[i] - m_new)
        m = m_new
    o, history = np.zeros(V.shape[1], dtype), np.empty_like(V)
    for i in range(N):
        a = np.exp(x[i] - m) / d
        o = o + a * V[i]
        history[i] = o
    return history


# %% [markdown]
# ## One pass
# Softmax itself cannot do with one pass: it must write N numbers that all depend on the last. Attention writes their
# weighted sum only, and a sum can be rescaled. As d'_i replaced d_i, let
#
#     o'_i = sum_(j <= i) e^(x_j - m_i) / d'_i  V[j,:]
#
# use the maximum and the sum so far. Then o'_N = o_N, and o'_i follows from o'_(i-1) alone:
#
#     o'_i = o'_(i-1) d'_(i-1) e^(m_(i-1) - m_i) / d'_i + e^(x_i - m_i) / d'_i V[i,:]
#
# Nothing of length N is left: no scores, no weights. This is FlashAttention with tiles of one key.


# %%
def one_pass(q, K, V):
    """o'_i for every i, the last of them the result."""
    N, dtype = len(K), V.dtype
    m, d, o, history = dtype.type(-np.inf), dtype.type(0), np.zeros(V.shape[1], dtype), np.empty_like(V)
    for i in range(N):
        x = q @ K[i]
        m_new = max(m, x)
        d_new = d * np.exp(m - m_new) + np.exp(x - m_new)
        o = o * (d * np.exp(m - m_new) / d_new) + np.exp(x - m_new) / d_new * V[i]
        m, d, history[i] = m_new, d_new, o
    return history


# %% [markdown]
# ## What the two sequences are on the way
# o_i is a part of the final sum: it starts at 0 and is nothing anyone wants before the end. o'_i is the attention over
# the first i keys, finished, at every step; it never leaves the hull of the values that it has seen.

# %%
rng = np.random.default_rng(3)
N, d, dv = 24, 8, 2
q, K, V = rng.standard_normal(d) / 2, rng.standard_normal((N, d)), rng.standard_normal((N, dv))
o, o_prime = two_passes(q, K, V), one_pass(q, K, V)
prefixes = np.stack([reference.softmax(K[:i] @ q) @ V[:i] for i in range(1, N + 1)])
print(f"{'i':>2}  {'o_i of two passes':>20}  {'o_i of one pass':>20}  {'attention over i keys':>22}")
for i in (0, 1, 2, 5, 11, 17, N - 1):
    print(f"{i + 1:2}  " + "  ".join(f"{row[0]:10.5f} {row[1]:9.5f}" for row in (o[i], o_prime[i], prefixes[i])))
difference_two = float(np.abs(o[-1] - prefixes[-1]).max())
difference_one = float(np.abs(o_prime - prefixes).max())
print(f"two passes differ from the definition by {difference_two:.1e} at the end,")
print(f"one pass by {difference_one:.1e} at any step")

# %% [markdown]
# ## In the library
# The rungs attention_two_pass and attention_one_pass do this for every query; the former computes x_i a second time
# instead of keeping it. `scale` multiplies x_i, and first and last say which keys a query sees: here, all of them.

# %%
queries = rng.standard_normal((5, d))
results = [rung(queries, K, V, scale=1, first=-N, last=N)[0] for rung in (attention_two_pass, attention_one_pass)]
library = [float(np.abs(O - reference.softmax(queries @ K.T) @ V).max()) for O in results]
print(f"\nattention_two_pass differs from the definition by {library[0]:.1e}, attention_one_pass by {library[1]:.1e}")


# %%
def draw(plt):
    """The two sequences as paths in the plane of V's two columns."""
    figure, axes = plt.subplots(figsize=(6, 6), layout="constrained")
    axes.scatter(*V.T, c=range(N), cmap="Greys", edgecolors="grey", label="V[i,:], later ones darker")
    axes.plot(*np.vstack([np.zeros(dv), o]).T, ".-", label="o_i: grows from 0")
    axes.plot(*o_prime.T, ".-", label="o'_i: a mean at every step")
    axes.plot(*o[-1], "*", color="black", markersize=12, label="O[k,:]")
    axes.legend()
    return figure


picture(draw)
