"""Kernels of one instruction for warpgroups or of tensor copies, and what else their tests share."""

import numpy as np
import pytest
from numba import cuda, types

from numba_flash import ptx, simulator
from numba_flash.config import cuda_device
from numba_flash.device.boxes import write_map
from numba_flash.device.warpgroups import make_issue, make_issue_registers
from numba_flash.ptx import (
    acquire_map,
    add_box,
    commit_stores,
    fence_shared,
    global_view,
    load_box,
    mbarrier_expect,
    mbarrier_init,
    mbarrier_wait,
    pin,
    publish_mbarriers,
    release_maps,
    shared_address,
    shared_tile,
    store_box,
    wait_stores,
    wgmma_fence,
    wgmma_wait,
)
from numba_flash.runtime import Kernel
from numba_flash.testing.backends import GPU
from numba_flash.tiling import round_up

THREADS, DEPTH = 128, 64


def box_kernel(rows, how):
    """A box of X goes to shared memory, whose words go to W, then from there to a place in Y: stored, or added."""
    BYTES = 128 * rows
    WORDS = BYTES // 4
    send = {"store": store_box, "add": add_box}[how]

    def box(X, X_words, Y, Y_words, W, maps, corner, target):
        tid, smem = cuda.threadIdx.x, shared_address(0)
        maps, words = global_view(maps, 0, types.uint64), global_view(W, 0, types.uint32)
        if tid == 0:
            write_map(maps, 0, X_words, X)
            write_map(maps, 1, Y_words, Y)
            release_maps()
            acquire_map(maps, 0)
            acquire_map(maps, 16)
            mbarrier_init(smem + BYTES, 1)
            publish_mbarriers()
        cuda.syncthreads()
        if tid == 0:
            mbarrier_expect(smem + BYTES, BYTES)
            load_box(smem, maps, 0, corner, smem + BYTES)
        mbarrier_wait(smem + BYTES, 0)
        tile = shared_tile(0, (WORDS,), types.uint32)
        for n in range(tid, WORDS, THREADS):
            words[n] = tile[n]
        cuda.syncthreads()
        if tid == 0:
            send(smem, maps, 16, target)
            commit_stores()
            wait_stores(0)

    return Kernel.of(box, THREADS, BYTES + 8)


def product_kernel(columns, dtype, a_across, b_across, fence=wgmma_fence, publish=fence_shared, wait=wgmma_wait):
    """C (128, columns / 2), a thread's sums in a row, += A @ B, 64 deep, from words that lie as in shared memory.

    With `a_across` None, A (128, 16) is fragments in registers: a thread's words in a row.
    """
    SUMS, A_WORDS, B_WORDS = columns // 2, 64 * 32, round_up(columns, 64) * DEPTH // 2
    B_AT, ALL = 4 * A_WORDS, (A_WORDS + B_WORDS,)
    a_panel, b_panel = 64 * 128, (DEPTH if b_across else columns) * 128
    FROM_REGISTERS = a_across is None
    if FROM_REGISTERS:
        issue = make_issue_registers(dtype, columns, DEPTH, b_panel)
    else:
        issue = make_issue(dtype, columns, DEPTH, a_panel, b_panel, a_across, b_across)

    def product(A, B, C):
        tid, smem = cuda.threadIdx.x, shared_address(0)
        a, b = global_view(A, 0, types.uint32), global_view(B, 0, types.uint32)
        c = global_view(C, tid * SUMS, types.float32)
        tile, acc = shared_tile(0, ALL, types.uint32), cuda.local.array(SUMS, types.float32)
        p = cuda.local.array(16, types.uint32)
        for n in range(tid, A_WORDS, THREADS):
            tile[n] = a[n]
        for n in range(tid, B_WORDS, THREADS):
            tile[A_WORDS + n] = b[n]
        publish()
        cuda.syncthreads()
        for n in range(16):
            p[n] = a[16 * tid + n]
        for n in range(SUMS):
            acc[n] = c[n]
        fence()
        if FROM_REGISTERS:
            issue(acc, p, smem + B_AT)
        else:
            issue(acc, smem, smem + B_AT)
        wait(0)
        pin(acc, SUMS)
        for n in range(SUMS):
            c[n] = acc[n]

    return Kernel.of(product, THREADS, B_AT + 4 * B_WORDS)


@ptx.device
def nothing():
    pass


def skip_without_warpgroups(where):
    """On a GPU these instructions are those of compute capability 9.0 alone."""
    if where is GPU and cuda_device(0).compute_capability != (9, 0):
        pytest.skip("needs compute capability 9.0")


def swizzled(rows):
    """Rows of 128 bytes as they lie in shared memory, from a multiple of 1024 bytes on."""
    chunks = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), 8, 16)
    places = np.arange(8) ^ np.arange(len(rows))[:, None] % 8
    lying = np.empty_like(chunks)
    lying[np.arange(len(rows))[:, None], places] = chunks
    return lying.reshape(-1).view(np.uint32)


def in_block(body, threads=THREADS, shared_bytes=4096, args=(), **how):
    """Run a kernel in one block of the simulator."""
    with simulator.options(**how):
        simulator.launch(body, 1, threads, shared_bytes, args)
