# %% [markdown]
# # 2. The online softmax
# The safe softmax of script 1 reads x three times, because the sum (2) needs the maximum m_N of all of x. The surrogate
#
#     d'_i = sum_(j <= i) e^(x_j - m_i)
#
# uses the maximum so far instead. It has a recurrence of its own, which needs nothing from the future, and
# d'_N = d_N. So maximum and sum share one pass (Milakov and Gimelshein 2018, arXiv:1805.02867):
#
#     m_i  = max(m_(i-1), x_i)
#     d'_i = d'_(i-1) e^(m_(i-1) - m_i) + e^(x_i - m_i)      (4)   first pass
#     a_i  = e^(x_i - m_N) / d'_N                            (5)   second pass

# %%
import numpy as np
from pictures import picture

from numba_flash import reference
from numba_flash.algorithms import softmax_online


def online_sums(x):
    """m_i and d'_i for every i: the first pass, with its whole history."""
    m, d = np.empty_like(x), np.empty_like(x)
    m_last, d_last = x.dtype.type(-np.inf), x.dtype.type(0)
    for i, x_i in enumerate(x):
        m[i] = max(m_last, x_i)
        d[i] = d_last * np.exp(m_last - m[i]) + np.exp(x_i - m[i])
        m_last, d_last = m[i], d[i]
    return m, d


def online_softmax(x):
    """Both passes."""
    m, d = online_sums(x)
    return np.exp(x - m[-1]) / d[-1]


# %% [markdown]
# ## Step by step
# When a new maximum comes, e^(m_(i-1) - m_i) < 1 shrinks what was summed so far; otherwise that factor is 1. To see
# that nothing is lost, rescale each d'_i to the final maximum: d'_i e^(m_i - m_N) is d_i, the partial sum of the safe
# softmax, at every step.

# %%
x = np.array([1, 3, 2, 5, 4, 5, 90, 91], np.float32)
m, d_online = online_sums(x)
d_safe = np.cumsum(np.exp(x - x.max()))  # equation (2), which had to know max x before it began
print(f"{'i':>2} {'x_i':>5} {'m_i':>5} {'factor':>9} {'d_i, (4)':>9} {'rescaled':>11} {'d_i, (2)':>11}")
for i in range(len(x)):
    factor = np.exp((m[i - 1] if i else -np.inf) - m[i])
    rescaled = d_online[i] * np.exp(m[i] - m[-1])
    print(f"{i + 1:2} {x[i]:5} {m[i]:5} {factor:9.2e} {d_online[i]:9.6f} {rescaled:11.5e} {d_safe[i]:11.5e}")

error = float(np.abs(online_softmax(x) - reference.softmax(x.astype(np.float64))).max())
print(f"largest error of the online softmax: {error:.1e}")

# %% [markdown]
# The numbers at 90 and 91 would overflow the naive formula. Here the sum of what came before them is multiplied with
# e^-85 and all but vanishes, which is what its weight in the softmax is.

# %% [markdown]
# ## The same recurrence on a long row
# m_i is a staircase, and d'_i falls at each of its steps. Numbers that rise all the time are the worst: each is a new
# maximum. Numbers that fall meet none after the first.

# %%
rng = np.random.default_rng(0)
noise = rng.standard_normal(512).astype(np.float32)
ramp = np.linspace(0, 30, 512, dtype=np.float32)
rows = {"noise": 3 * noise, "rising": ramp, "falling": ramp[::-1].copy(), "noise, rising": ramp + 3 * noise}
steps, errors = {}, {}
print(f"\n{'a row of 512':14} {'new maxima':>10} {'largest error':>14}")
for name, row in rows.items():
    m, _ = online_sums(row)
    steps[name] = len(np.unique(m))
    errors[name] = float(np.abs(online_softmax(row) - reference.softmax(row.astype(np.float64))).max())
    print(f"{name:14} {steps[name]:10} {errors[name]:14.1e}")

# %% [markdown]
# ## In the library
# On a GPU, T threads share a row: thread t meets x_t, x_(t+T), ... and has m and d' of its own; then the pairs of all
# threads are merged, two by two. Why that is allowed is script 4. NumPy's algorithm has the name of the kernel.

# %%
row = rows["noise, rising"]
exact = reference.softmax(row.astype(np.float64))
by_threads = {T: float(np.abs(softmax_online(row[None], T)[0] - exact).max()) for T in (1, 32, 256)}
print("\nsoftmax_online: " + ", ".join(f"{T} threads, error {error:.1e}" for T, error in by_threads.items()))


# %%
def draw(plt):
    """The staircase of m_i, the saw of d'_i, and the rescaled d'_i on its way to d_N."""
    row = rows["noise, rising"]
    m, d = online_sums(row)
    figure, (top, middle, bottom) = plt.subplots(3, sharex=True, figsize=(8, 7), layout="constrained")
    top.plot(row, ".", markersize=2, label="x_i")
    top.step(range(len(m)), m, where="post", label="m_i")
    middle.plot(d, label="d'_i")
    bottom.semilogy(d * np.exp(m - m[-1]), label="d'_i rescaled to m_N")
    bottom.semilogy(np.cumsum(np.exp(row - row.max())), "--", label="d_i of the safe softmax")
    bottom.axhline(d[-1], color="black", linewidth=1, label="d_N = d'_N")
    bottom.set(xlabel="i")
    for axes in (top, middle, bottom):
        axes.legend(loc="upper left")
    return figure


picture(draw)
