# %% [markdown]
# # Attention for a CuPy user
# Causal attention in float16 on a stream of your own, at a size where the plain formula needs gigabytes: time, memory
# and error of both. It needs CuPy and an NVIDIA GPU with 8 GB; without them it says so and exits with code 3.

# %%
import statistics
import sys

import numpy as np

from numba_flash import flash_attention

try:
    import cupy as cp

    cp.cuda.Device().use()
except ImportError:
    print('cupy_attention: CuPy cannot be imported; pip install "numba_flash[cu13]"', file=sys.stderr)
    sys.exit(3)
except cp.cuda.runtime.CUDARuntimeError as reason:
    print(f"cupy_attention: CuPy finds no GPU; {reason}", file=sys.stderr)
    sys.exit(3)

# %% [markdown]
# ## The plain formula
# For float16 it computes in float32 and rounds the probabilities before the second product; for float64 it is exact.


# %%
def plain_attention(q, k, v):
    """softmax(q k^T / sqrt(d)) v with causal masking and (N, N) matrices in memory."""
    k, v = (cp.repeat(x, q.shape[1] // k.shape[1], axis=1) for x in (k, v))  # a KV head serves a group of query heads
    inside = np.promote_types(q.dtype, np.float32)
    s = q.astype(inside) @ k.astype(inside).swapaxes(-1, -2) / q.shape[-1] ** 0.5  # (B, Hq, N, N)
    s = cp.where(cp.tri(q.shape[-2], dtype=bool), s, -cp.inf)
    p = cp.exp(s - s.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    return p.astype(q.dtype) @ v


# %% [markdown]
# ## Inputs
# (B, N, H, d) arrays, seen as (B, H, N, d): flash_attention reads the views in place. Inside `with stream`, CuPy's
# work and that of flash_attention are queued on this stream, and neither waits for the GPU.

# %%
B, N, Hq, Hk, d = 2, 4096, 16, 4, 128
stream = cp.cuda.Stream(non_blocking=True)
with stream:
    rng = cp.random.default_rng(0)
    q, k, v = (
        rng.standard_normal((B, N, H, d), dtype=cp.float32).astype(cp.float16).swapaxes(1, 2) for H in (Hq, Hk, Hk)
    )


# %% [markdown]
# ## Time and memory
# The median over CuPy events, after one call that compiles. A fresh pool tells how much memory a function asked for.


# %%
def measure(attention, repeats=20):
    """Milliseconds and bytes that one call takes."""
    pool = cp.cuda.MemoryPool()
    milliseconds = []
    with stream, cp.cuda.using_allocator(pool.malloc):
        attention()
        taken = pool.total_bytes()
        for _ in range(repeats):
            start, stop = cp.cuda.Event(), cp.cuda.Event()
            start.record()
            attention()
            stop.record()
            stop.synchronize()
            milliseconds.append(cp.cuda.get_elapsed_time(start, stop))
    return statistics.median(milliseconds), taken


flops = 4 * B * Hq * N * N * d / 2  # two products, and causal attention needs half of each
measured = {
    "numba_flash": measure(lambda: flash_attention(q, k, v, causal=True)),
    "plain formula": measure(lambda: plain_attention(q, k, v)),
}
for name, (milliseconds, taken) in measured.items():
    print(f"{name:14} {milliseconds:8.3f} ms {flops / milliseconds / 1e9:7.1f} TFLOP/s {taken / 2**20:9,.0f} MiB")

# %% [markdown]
# ## Error
# On one group of heads, against float64: flash_attention may err twice as much as the plain formula in float16, plus
# two roundings.

# %%
with stream:
    group = q[:1, : Hq // Hk], k[:1, :1], v[:1, :1]
    exact = plain_attention(*(x.astype(cp.float64) for x in group))
    plain_error = float(abs(plain_attention(*group) - exact).max())
    error = float(abs(flash_attention(q, k, v, causal=True)[:1, : Hq // Hk] - exact).max())
    rounded, shift = exact.astype(cp.float16), cp.float16(0.3)
    allowed = 2 * plain_error + 2 * float(abs(rounded + shift - shift - rounded).max())
print(f"error {error:.1e}, of the plain formula {plain_error:.1e}, allowed {allowed:.1e}")
assert error <= allowed
