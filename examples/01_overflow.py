# %% [markdown]
# # 1. Why softmax needs the maximum
# softmax(x)_i = e^(x_i) / sum_j e^(x_j), written as it stands, breaks on numbers that a model produces every day: the
# scores q.k of attention need only reach 89. This script finds the place and shows the cure.
#
# Every script of this series prints numbers; `--save FOLDER` or `--show` draws its picture (that needs matplotlib).

# %%
import numpy as np
from pictures import picture

from numba_flash import reference, softmax

# %% [markdown]
# ## The naive formula
# The largest float32 is 3.4028235e38. Its logarithm is the largest x whose exponential is still a number; beyond it
# e^x is inf, and inf / inf is NaN. float64 only moves the limit, float16 has it at 11.


# %%
@np.errstate(over="ignore", invalid="ignore")  # no warnings: overflow is the subject
def naive_softmax(x):
    """The formula as it stands, in x's dtype."""
    e = np.exp(x)
    return e / e.sum()


@np.errstate(over="ignore")
def exponential(x):
    """e^x, inf without a warning."""
    return np.exp(x)


limits = {}
for dtype in (np.float16, np.float32, np.float64):
    limit = np.log(np.finfo(dtype).max)
    while np.isinf(exponential(limit)):  # the logarithm may have been rounded up
        limit = np.nextafter(limit, dtype(0))
    beyond = np.nextafter(limit, dtype(np.inf))
    limits[np.dtype(dtype).name] = limit, beyond
    print(f"{np.dtype(dtype).name}: e^{limit} = {exponential(limit):.5g}, but e^{beyond} = {exponential(beyond)}")

# %% [markdown]
# It also breaks at the other end: when all x are below -104, every float32 e^x is 0, and 0 / 0 is NaN too.

# %% [markdown]
# ## The safe softmax
# Multiplying numerator and denominator with e^-m changes nothing on paper. With m = max x every exponent is at most 0,
# so nothing overflows, and the sum has a term e^0 = 1, so it is at least 1. The price is one more pass over x:
#
#     m_i = max(m_(i-1), x_i)               (1)   first pass
#     d_i = d_(i-1) + e^(x_i - m_N)         (2)   second pass, since it needs m_N
#     a_i = e^(x_i - m_N) / d_N             (3)   third pass, since it needs d_N


# %%
def safe_softmax(x):
    """Equations (1) to (3), one number at a time."""
    m, d, a = x.dtype.type(-np.inf), x.dtype.type(0), np.empty_like(x)
    for x_i in x:
        m = max(m, x_i)
    for x_i in x:
        d = d + np.exp(x_i - m)
    for i, x_i in enumerate(x):
        a[i] = np.exp(x_i - m) / d
    return a


# %% [markdown]
# ## Both, on the same numbers moved up and down
# softmax(x + c) = softmax(x) for any c, so the right answer is the same in each row of this table. At c = 88.5 each
# e^(x_i + c) is still a number, but their sum is not: the naive result is 0 everywhere, with no NaN to warn of it.

# %%
x = np.array([0, -1, -2, -5], np.float32)
exact = reference.softmax(x.astype(np.float64))
shifts = np.array([-120, -104, -87, 0, 80, 87, 88, 88.5, 89, 100, 1000], np.float32)
errors = {"naive": [], "safe": []}
print(f"\nsoftmax of {x} + c, largest error")
print(f"{'c':>7} {'naive':>10} {'safe':>10}")
for c in shifts:
    for name, formula in (("naive", naive_softmax), ("safe", safe_softmax)):
        errors[name].append(float(np.abs(formula(x + c) - exact).max()))
    print(f"{c:7} {errors['naive'][-1]:10.1e} {errors['safe'][-1]:10.1e}")

# %% [markdown]
# ## In the library
# `numba_flash.softmax` is safe on every rung. On a GPU, softmax_safe runs the three passes above, a block of threads a
# row, and softmax_online needs two (script 2).

# %%
library = softmax(x + 1000)
print(f"\nnumba_flash.softmax(x + 1000) = {library}")


# %%
def draw(plt):
    """The error of both formulas against the shift; where a curve ends, the result is NaN."""
    c = np.linspace(-120, 110, 1000, dtype=np.float32)
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for name, formula in (("naive", naive_softmax), ("safe", safe_softmax)):
        axes.semilogy(c, [np.abs(formula(x + shift) - exact).max() for shift in c], ".", markersize=2, label=name)
    axes.axvline(limits["float32"][0], color="black", linewidth=1, label="88.72")
    axes.set(xlabel="c", ylabel="largest error of softmax(x + c)", title="float32 softmax of the same numbers, moved")
    axes.legend()
    return figure


picture(draw)
