# %% [markdown]
# # Attention for a NumPy user
# A causal self-attention layer with grouped-query heads: forward, gradients, one step of decoding, and keys that come
# in two halves. Each result is checked against the plain formula, which holds the whole (N, N) score matrix.

# %%
import numpy as np

from numba_flash import flash_attention, flash_attention_vjp, merge

# %% [markdown]
# ## The plain formula
# It runs twice: in float32, as a user would, and in float64 to measure errors.


# %%
def plain_attention(q, k, v, visible=True):
    """Returns o, the log-sum-exp of the scores and the probabilities. `visible` broadcasts to (B, Hq, Nq, Nk)."""
    k, v = (np.repeat(x, q.shape[1] // k.shape[1], axis=1) for x in (k, v))  # a KV head serves a group of query heads
    s = np.where(visible, q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5, -np.inf)
    m = s.max(axis=-1, keepdims=True)
    p = np.exp(s - m)
    l = p.sum(axis=-1, keepdims=True)
    return p / l @ v, (m + np.log(l))[..., 0], p / l


def plain_gradients(do, q, k, v, visible=True):
    """dq, dk, dv of sum(do * o)."""
    group = q.shape[1] // k.shape[1]
    o, _, p = plain_attention(q, k, v, visible)
    dp = do @ np.repeat(v, group, axis=1).swapaxes(-1, -2)
    ds = p * (dp - (do * o).sum(axis=-1, keepdims=True)) / q.shape[-1] ** 0.5
    dq, dk, dv = ds @ np.repeat(k, group, axis=1), ds.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ do
    return dq, *(x.reshape(*k.shape[:2], group, *k.shape[2:]).sum(axis=2) for x in (dk, dv))


def check(name, out, plain, exact):
    """In the mean, `out` may err four times as much as the plain formula in the same precision, plus two roundings.

    Four times, because gradients recompute the probabilities from a rounded log-sum-exp.
    """
    shift, rounded = out.dtype.type(0.3), exact.astype(out.dtype)
    allowed = 4 * np.linalg.norm(plain - exact) + 2 * np.linalg.norm(rounded + shift - shift - rounded)
    error = np.linalg.norm(out - exact)
    scale = np.linalg.norm(exact)
    print(f"{name:22} {out.shape!s:16} relative error {error / scale:.1e}, allowed {allowed / scale:.1e}")
    assert error <= allowed, name


# %% [markdown]
# ## The layer
# A projection gives rows (B, N, H*d). Reshaping and swapping two axes makes (B, H, N, d) views of them, which
# flash_attention reads in place. Two KV heads serve eight query heads.

# %%
B, N, Hq, Hk, d = 2, 257, 8, 2, 32
rng = np.random.default_rng(0)
x = rng.standard_normal((B, N, Hq * d), np.float32)
Wq, Wk, Wv, Wo = (
    rng.standard_normal((Hq * d, H * d), np.float32) / np.sqrt(np.float32(Hq * d)) for H in (Hq, Hk, Hk, Hq)
)


def split_heads(rows):
    return rows.reshape(*rows.shape[:2], -1, d).swapaxes(1, 2)


def join_heads(heads):
    return heads.swapaxes(1, 2).reshape(heads.shape[0], heads.shape[2], -1)


q, k, v = (split_heads(x @ W) for W in (Wq, Wk, Wv))
o, lse = flash_attention(q, k, v, causal=True, return_lse=True)
y = join_heads(o) @ Wo

causal = np.tril(np.ones((N, N), bool))
q64, k64, v64 = (a.astype(np.float64) for a in (q, k, v))
plain = plain_attention(q, k, v, causal)
exact = plain_attention(q64, k64, v64, causal)
check("o", o, plain[0], exact[0])
check("log-sum-exp", lse, plain[1], exact[1])

# %% [markdown]
# ## Gradients
# The pullback takes the gradient of o to those of q, k and v. Beside o it keeps one number for each query row, the
# log-sum-exp, in place of the probabilities. The loss here is sum(y**2) / 2, so that dy = y.

# %%
o, pullback = flash_attention_vjp(q, k, v, causal=True)
do = split_heads(y @ Wo.T)
gradients = pullback(do)
plain = plain_gradients(do, q, k, v, causal)
exact = plain_gradients(do.astype(np.float64), q64, k64, v64, causal)
for name, *values in zip(("dq", "dk", "dv"), gradients, plain, exact, strict=True):
    check(name, *values)
print(f"kept for the gradients: {lse.nbytes:,} bytes; the probabilities would be {B * Hq * N * N * 4:,}")

# %% [markdown]
# ## One step of decoding
# The cache has room for 512 keys, of which t + 1 are filled. `q_offset` says where the query stands, and causal
# attention then leaves the empty part alone.

# %%
t = N - 1
k_cache, v_cache = np.zeros((2, B, Hk, 512, d), np.float32)
k_cache[:, :, : t + 1], v_cache[:, :, : t + 1] = k, v
step = flash_attention(q[:, :, t:], k_cache, v_cache, causal=True, q_offset=t)
plain = plain_attention(q[:, :, t:], k, v)
exact = plain_attention(q64[:, :, t:], k64, v64)
check("decoding step", step, plain[0], exact[0])

# %% [markdown]
# ## Two halves of the keys
# Attention over each half, with its log-sum-exp, is enough to have attention over both. The halves could lie on two
# machines, or one could be a prompt that many requests share.

# %%
half = N // 2
first = flash_attention(q[:, :, t:], k[:, :, :half], v[:, :, :half], return_lse=True)
second = flash_attention(q[:, :, t:], k[:, :, half:], v[:, :, half:], return_lse=True)
merged, merged_lse = merge(*first, *second)
check("merged halves", merged, plain[0], exact[0])
check("their log-sum-exp", merged_lse, plain[1], exact[1])
