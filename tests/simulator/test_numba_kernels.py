"""numba's own simulated kernels run on the same scheduler, faster."""

import time

import numpy as np
import pytest
from numba import cuda, float32, types

from numba_flash import simulator

T = 16


@cuda.jit
def matmul(A, B, C):
    As = cuda.shared.array((T, T), float32)
    Bs = cuda.shared.array((T, T), float32)
    col, row = cuda.grid(2)
    c, r = cuda.threadIdx.x, cuda.threadIdx.y
    acc = np.float32(0)
    for t in range(A.shape[1] // T):
        As[r, c] = A[row, t * T + c]
        Bs[r, c] = B[t * T + r, col]
        cuda.syncthreads()
        for x in range(T):
            acc += As[r, x] * Bs[x, c]
        cuda.syncthreads()
    C[row, col] = acc


def test_a_tiled_matmul_is_right_and_fast():
    A, B = np.random.default_rng(0).normal(size=(2, 64, 64)).astype(np.float32)
    C = np.zeros_like(A)
    times = []
    for seed in (None, None, 3):
        start = time.perf_counter()
        with simulator.options(seed=seed):
            matmul[(4, 4), (T, T)](A, B, C)
        times.append(time.perf_counter() - start)
        np.testing.assert_allclose(C, A @ B, atol=1e-4)
    assert min(times) < 2.0  # numba's own simulator: 7.5 s


@cuda.jit(device=True, forceinline=True)
def above(x):
    return cuda.shfl_down_sync(0xFFFFFFFF, x, 1)


@cuda.jit(types.void(float32[:]), fastmath=True, launch_bounds=(64, 1), max_registers=64, lineinfo=True, lto=False)
def shift(x):
    i = cuda.grid(1)
    x[i] = above(x[i])


def test_device_functions_warp_operations_and_compiler_options():
    x = np.arange(64, dtype=np.float32)
    shift[1, 64](x)
    np.testing.assert_array_equal(x, [*range(1, 32), 31, *range(33, 64), 63])


def test_unknown_options_are_refused():
    with pytest.raises(TypeError):
        cuda.jit(launch_bound=3)


def test_a_kernel_whose_module_calls_cuda_otherwise():
    from numba import cuda as gpu

    @gpu.jit
    def kernel(out):
        out[gpu.grid(1)] = gpu.blockDim.x

    out = np.zeros(6)
    kernel[2, 3](out)
    assert list(out) == [3] * 6


def test_dynamic_shared_memory_and_blocks():
    @cuda.jit
    def reverse(x):
        tile = cuda.shared.array(0, float32)
        i, n = cuda.threadIdx.x, cuda.blockDim.x
        tile[i] = x[cuda.blockIdx.x, i]
        cuda.syncthreads()
        x[cuda.blockIdx.x, i] = tile[n - 1 - i]

    x = np.arange(24, dtype=np.float32).reshape(3, 8)
    expected = x[:, ::-1].copy()
    reverse[3, 8, 0, 32](x)
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("seed", [None, 1])
def test_atomics_and_fences(seed):
    @cuda.jit
    def histogram(x, counts, top):
        i = cuda.grid(1)
        cuda.atomic.add(counts, x[i] % 4, 1)
        cuda.threadfence()
        cuda.threadfence_block()
        cuda.threadfence_system()
        cuda.atomic.max(top, 0, x[i])

    x, counts, top = np.arange(100), np.zeros(4, int), np.zeros(1, int)
    with simulator.options(seed=seed):
        histogram[5, 20](x, counts, top)
    assert list(counts) == [25] * 4 and top[0] == 99


def test_bit_operations():
    @cuda.jit
    def bits(out):
        out[0], out[1], out[2], out[3] = cuda.popc(0xF0), cuda.clz(1), cuda.ffs(8), cuda.fma(2, 3, 4)
        out[4] = cuda.selp(True, 5, 6)

    out = np.zeros(5)
    bits[1, 1](out)
    assert list(out) == [4, 31, 4, 10, 5]


def test_a_grid_of_one_block_can_synchronize():
    @cuda.jit
    def kernel(x):
        i = cuda.grid(1)
        x[i] = i
        cuda.cg.this_grid().sync()
        x[i] += x[(i + 1) % 4] > -1

    x = np.full(4, -5)
    kernel[1, 4](x)
    assert list(x) == [1, 2, 3, 4]
    with pytest.raises(NotImplementedError, match="not all are there at once"):
        kernel[2, 2](x)


def test_debug_finds_a_division_by_zero():
    @cuda.jit(debug=True, opt=False)
    def divide(x):
        x[0] = x[1] / x[2]

    with pytest.raises(FloatingPointError):
        divide[1, 1](np.array([0.0, 1.0, 0.0]))


def test_errors_of_numba_kernels_name_threads():
    @cuda.jit
    def kernel(x):
        if x[cuda.threadIdx.x] > 0:
            cuda.syncthreads()

    with pytest.raises(simulator.DivergentBarrier, match=r"thread 0 has returned, threads 1-3 wait at syncthreads"):
        kernel[1, 4](np.arange(4))
    with pytest.raises(IndexError):
        kernel[1, 5](np.zeros(4))


def test_no_work_is_no_launch():
    @cuda.jit
    def kernel(x):
        x[cuda.grid(1)] = 1

    kernel.forall(0)(np.zeros(0))
    x = np.zeros(3)
    kernel.forall(3)(x)
    assert list(x) == [1, 1, 1]
