# %% [markdown]
# # 4. The law under all of it
# The state of a set of keys, for one query: m, the largest score; l, the sum of e^(s - m); O, the sum of e^(s - m) v.
# Two disjoint sets merge by moving both to the larger maximum:
#
#     m = max(m1, m2),   l = e^(m1 - m) l1 + e^(m2 - m) l2,   O = e^(m1 - m) O1 + e^(m2 - m) O2
#
# States with merge are a commutative monoid: merge is associative and commutative, and (-inf, 0, 0), the state of no
# keys, changes nothing. So keys may be split any way and merged in any order: one after the other (FlashAttention), in
# parallel (Flash-Decoding), on many machines (ring attention). At the end, O / l is the attention. The proof stands in
# numba_flash/algorithms/monoid.py.

# %%
import functools
import random
from fractions import Fraction

import numpy as np
from pictures import picture

import numba_flash as nf
from numba_flash import reference

NOTHING = -np.inf, 0, 0


def state(s, v, exp=np.exp):
    """(m, l, O) of keys with scores s (N,) and values v (N, dv)."""
    m = max(s)
    weights = [exp(x - m) for x in s]
    return m, sum(weights), sum(w * row for w, row in zip(weights, v, strict=True))


def merge(one, other, exp=np.exp):
    """The state of two sets of keys together."""
    (m1, l1, O1), (m2, l2, O2) = one, other
    m = max(m1, m2)
    if m == -np.inf:  # neither has a key, and -inf - -inf would be NaN
        return NOTHING
    c1, c2 = exp(m1 - m), exp(m2 - m)
    return m, c1 * l1 + c2 * l2, c1 * O1 + c2 * O2


# %% [markdown]
# ## Exactly
# With powers of 2 in place of e, whole numbers as scores and fractions for arithmetic, there is no rounding, and == can
# test the law.


# %%
def power_of_2(n):
    return Fraction(0) if n == -np.inf else Fraction(2) ** n


def random_state(n):
    """The state of n keys with one value each."""
    s, v = ([random.randint(-50, 50) for _ in range(n)] for _ in range(2))
    return state(s, [Fraction(x) for x in v], power_of_2)


random.seed(0)
exact_merge = functools.partial(merge, exp=power_of_2)
trials = 1000
held = {"associative": 0, "commutative": 0, "identity": 0}
for _ in range(trials):
    a, b, c = (random_state(random.randint(1, 5)) for _ in range(3))
    held["associative"] += exact_merge(exact_merge(a, b), c) == exact_merge(a, exact_merge(b, c))
    held["commutative"] += exact_merge(a, b) == exact_merge(b, a)
    held["identity"] += exact_merge(a, NOTHING) == a == exact_merge(NOTHING, a)
print(", ".join(f"{name} {count} of {trials} times" for name, count in held.items()))

# %% [markdown]
# ## In floating point
# Now only rounding tells two orders apart. Keys are cut at random places, the parts are merged in random order, as a
# chain or as a tree, and the result is compared with the definition.


# %%
def as_chain(states):
    """((s1 + s2) + s3) + ..."""
    return functools.reduce(merge, states, NOTHING)


def as_tree(states):
    """Neighbours in pairs, and so on with the results."""
    while len(states) > 1:
        states = [as_chain(states[i : i + 2]) for i in range(0, len(states), 2)]
    return states[0]


rng = np.random.default_rng(0)
N, dv = 200, 4
s, V = 5 * rng.standard_normal(N), rng.standard_normal((N, dv))
exact = reference.softmax(s) @ V
differences = []
print(f"\n{'parts':>5} {'chain':>9} {'tree':>9}   differences from the definition, float64")
for parts in (1, 2, 3, 7, 20, 100, 200):
    order = rng.permutation(N)
    states = [state(s[group], V[group]) for group in np.split(order, np.sort(rng.choice(N - 1, parts - 1, False)) + 1)]
    row = [float(np.abs(O / l - exact).max()) for m, l, O in (as_chain(states), as_tree(states))]
    differences += row
    print(f"{parts:5} {row[0]:9.1e} {row[1]:9.1e}")

# %% [markdown]
# ## In the library
# `flash_attention(..., return_lse=True)` gives o = O / l and lse = m + log l, the same state in two pieces, and
# `numba_flash.merge` joins them. Four workers take a quarter of the keys each; their results arrive in any order.

# %%
q, k, v = rng.standard_normal((3, 1, N, 16)).astype(np.float32)
whole, whole_lse = reference.attention(q, k, v)
quarters = [nf.flash_attention(q, k[:, j::4], v[:, j::4], return_lse=True) for j in range(4)]
library = []
print("\norder of arrival    difference of o    of lse")
for order in ((0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 1, 0)):
    o, lse = functools.reduce(lambda one, other: nf.merge(*one, *other), [quarters[j] for j in order])
    library += [float(np.abs(o - whole).max()), float(np.abs(lse - whole_lse).max())]
    print(f"{order!s:19} {library[-2]:15.1e} {library[-1]:9.1e}")


# %%
def draw(plt):
    """Which scores a worker saw, and the state that came of it; the whole is below."""
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    groups = np.array_split(np.arange(N), 8)
    for group in groups:
        m, l, _ = state(s[group], V[group])
        axes.plot(group, s[group], ".", markersize=3)
        axes.hlines(m, group[0], group[-1], color="black", linewidth=1)
        axes.text(group[0], s.max() + 1, f"m {m:.1f}\nl {l:.2f}", fontsize=8)
    m, l, _ = as_chain([state(s[group], V[group]) for group in groups])
    axes.axhline(m, color="black", linestyle=":")
    axes.set(xlabel="key", ylabel="score", ylim=(None, m + 4), title=f"eight parts, merged: m {m:.1f}, l {l:.2f}")
    return figure


picture(draw)
