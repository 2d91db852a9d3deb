"""Every kernel once at small sizes, for compute-sanitizer: tails, GQA, every score option, both kinds of loads."""

import cupy as cp
import numpy as np

import numba_flash as nf

rng = np.random.default_rng(0)


def attention(dtype: str, d: int, Nq: int, Nk: int, kernel: str = "flash2", **options: object) -> None:
    """Forward and backward of two query heads on one KV head, with a gradient of LSE."""
    q, do = (cp.asarray(rng.standard_normal((1, 2, Nq, d)), dtype) for _ in range(2))
    k, v = (cp.asarray(rng.standard_normal((1, 1, Nk, d)), dtype) for _ in range(2))
    o, lse = nf.flash_attention(q, k, v, return_lse=True, kernel=kernel, **options)
    if kernel in ("flash1", "flash2", "flash2_mma", "flash3"):
        for deterministic in (False, True):
            nf.flash_attention_backward(
                do, q, k, v, o, lse, dlse=cp.ones_like(lse), deterministic=deterministic, kernel=kernel, **options
            )
    nf.merge(o, lse, o, lse)


attention("float32", 64, 130, 150, causal=True)
attention("float32", 3, 33, 70, window=(5, 2))
attention("float16", 128, 70, 65)
attention("float64", 32, 40, 70, causal=True)
bias, mask = cp.asarray(rng.standard_normal((70, 90)), "float32"), cp.asarray(rng.random((70, 90)) > 0.3)
attention("float32", 64, 70, 90, bias=bias, mask=mask, softcap=3.0, alibi_slopes=cp.asarray([0.1, 0.2], "float32"))
for kernel in ("attention_naive", "attention_two_pass", "attention_one_pass", "flash1"):
    attention("float32", 20, 33, 70, kernel=kernel, causal=True)
for kernel in ("softmax_safe", "softmax_online"):
    for N in (1, 100, 1000):
        nf.softmax(cp.asarray(rng.standard_normal((5, N)), "float32"), kernel=kernel)
for kernel in ("matmul_naive", "matmul_tiled", "matmul_registers"):
    for shape in ((64, 64, 64), (65, 33, 70)):
        M, K, N = shape
        nf.matmul(cp.ones((M, K), "float32"), cp.ones((K, N), "float32"), kernel=kernel)
for dtype in ("float16", "bfloat16"):
    for M, K, N in ((64, 64, 64), (300, 200, 520), (65, 33, 70)):
        a, b = cp.ones((M, K), "float32").astype(dtype), cp.ones((K, N), "float32").astype(dtype)
        nf.matmul(a, b, kernel="matmul_mma", out_dtype="float32")
for dtype, d in (("float16", 64), ("float16", 61), ("bfloat16", 128), ("bfloat16", 256)):
    attention(dtype, d, 150, 170, kernel="flash2_mma", causal=True)
attention("float16", 40, 70, 90, kernel="flash2_mma", bias=bias, mask=mask, softcap=3.0)
if cp.cuda.Device().compute_capability == "90":
    for dtype, d in (("float16", 64), ("bfloat16", 96), ("float16", 61), ("bfloat16", 256)):
        attention(dtype, d, 150, 170, kernel="flash3", causal=True)
    attention("float16", 40, 70, 90, kernel="flash3", bias=bias, mask=mask, softcap=3.0)
    for shape in ((64, 64, 64), (300, 200, 520)):
        M, K, N = shape
        a, b = cp.ones((M, K), "float16"), cp.ones((N, K), "float16").T
        nf.matmul(a, b, kernel="matmul_wgmma", out_dtype="float32")
cp.cuda.Device().synchronize()
print("every kernel ran")
