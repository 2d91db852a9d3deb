# %% [markdown]
# # 15. Your own attention
# Sliding windows, documents, ALiBi, softcaps: most kinds of attention change a score, or hide it, by where it stands.
# Each is a Python function of a few lines here. It is compiled into the same kernels that run without it; no matrix of
# biases or masks is ever made. The gradient of a score_mod comes from its source.

# %%
import math

import numpy as np
from pictures import picture

from numba_flash import flash_attention, flash_attention_vjp
from numba_flash.mods import read_mod

# %% [markdown]
# ## Who sees whom
# A mask_mod says whether query i of head h sees key j. `b` counts batch entries. Numbers, tuples of numbers and other
# functions of one expression may come from outside: they mean what they mean at the call.

# %%
WINDOW, GLOBAL_TOKENS, PREFIX = 12, 3, 20
STARTS = (0, 11, 30, 39)  # of documents that lie one behind the other


def causal(b, h, i, j):
    return j <= i


def window_and_global_tokens(b, h, i, j):
    near = i - j < WINDOW or j < GLOBAL_TOKENS
    return near and causal(b, h, i, j)


def prefix_lm(b, h, i, j):
    return j < PREFIX or j <= i


def same_document(b, h, i, j):
    of_i, of_j = 0, 0
    for n in range(len(STARTS)):
        of_i += i >= STARTS[n]
        of_j += j >= STARTS[n]
    return of_i == of_j and j <= i


def dilated(b, h, i, j):
    return j <= i and (i - j) % (1 + h) == 0  # each head in steps of its own


# %% [markdown]
# ## What a score becomes
# A score_mod gets the scaled product of a query and a key.


# %%
def alibi(score, b, h, i, j):
    return score - 2.0 ** (-2 * (h + 1)) * abs(i - j)


def softcap(score, b, h, i, j):
    return 2.0 * math.tanh(score / 2.0)


def nearest_in_time(score, b, h, i, j):
    distance = abs(i - j)
    if distance > 16:
        return score - math.log1p(distance - 16)
    return score


MASK_MODS = (causal, window_and_global_tokens, prefix_lm, same_document, dilated)
SCORE_MODS = (alibi, softcap, nearest_in_time)

# %% [markdown]
# ## What the kernels compute
# That is still Python, and can be printed: with the derivative beside the value, and every number in its dtype.

# %%
print(read_mod("score_mod", softcap).source(differentiated=True))

# %% [markdown]
# ## Checked
# Against the formula, with the matrix of scores filled in pair by pair; and gradients against central differences.

# %%
B, H, N, d = 2, 2, 48, 16
rng = np.random.default_rng(0)
q, k, v, do = rng.standard_normal((4, B, H, N, d))


def probabilities(score_mod=None, mask_mod=None):
    """P (B, H, N, N) by the formula."""
    s = q @ k.swapaxes(-1, -2) / d**0.5
    for place, score in np.ndenumerate(s):
        if score_mod is not None:
            s[place] = score_mod(score, *place)
        if mask_mod is not None and not mask_mod(*place):
            s[place] = -np.inf
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


drawn, errors = {}, {}
for mods in [
    *({"mask_mod": mod} for mod in MASK_MODS),
    *({"score_mod": mod, "mask_mod": causal} for mod in SCORE_MODS),
]:
    name = next(iter(mods.values())).__name__
    drawn[name] = probabilities(**mods)
    o = flash_attention(q, k, v, **mods)
    errors[name] = np.abs(o - drawn[name] @ v).max()
    print(f"{name:26} o is off by {errors[name]:.1e}")
    assert errors[name] < 1e-14


# %%
def slope(options, direction, step=1e-6):
    """How fast sum(do * o) changes as q moves in a direction."""
    ahead, behind = (flash_attention(q + side * step * direction, k, v, **options) for side in (1, -1))
    return np.sum(do * (ahead - behind)) / (2 * step)


for score_mod in SCORE_MODS:
    options = {"score_mod": score_mod, "mask_mod": causal}
    dq, _, _ = flash_attention_vjp(q, k, v, **options)[1](do)
    direction = rng.standard_normal(q.shape)
    measured, derived = slope(options, direction), np.sum(dq * direction)
    print(f"{score_mod.__name__:26} slope {derived:+.8f}, by differences {measured:+.8f}")
    assert abs(measured - derived) < 1e-6


# %% [markdown]
# ## A mistake
# What cannot be compiled is said in two lines: why, and which line of yours.

# %%
TABLE = np.linspace(0, 1, N)
try:
    flash_attention(q, k, v, score_mod=lambda score, b, h, i, j: score + TABLE[i])
except ValueError as error:
    print(error)


# %%
def draw(plt):
    """The probabilities of the last head, for each function."""
    figure, axes = plt.subplots(2, 4, figsize=(12, 6), layout="constrained")
    for axis, (name, p) in zip(axes.flat, drawn.items(), strict=True):
        axis.imshow(np.where(p[0, -1] > 0, np.sqrt(p[0, -1]), np.nan), cmap="viridis", interpolation="nearest")
        axis.set(title=name.replace("_", " "), xlabel="key j", ylabel="query i")
    return figure


picture(draw)
