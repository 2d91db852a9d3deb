"""Kernels of one instruction each, for every instruction of tensor cores: tests run and compile them."""

from numba import cuda, types

from numba_flash import ptx
from numba_flash.ptx import (
    commit_copies,
    copy_part,
    global_view,
    ldmatrix_x4,
    ldmatrix_x4_trans,
    mma_float16,
    shared_tile,
    store2,
    wait_copies,
)
from numba_flash.runtime import Kernel
from numba_flash.tiling import down_then_right, right_then_down

WARPS = 4
THREADS = 32 * WARPS
WORDS = 10  # of a lane's fragments of A, B and C


def load_kernel(name):
    """A block copies 128 rows of 8 elements to shared memory; every warp loads `count` matrices of its 32 rows."""
    instruction = getattr(ptx, name)
    COUNT = int(name.partition("_x")[2][0])

    def load(X, Y):
        tile, words = shared_tile(0, (THREADS, 8), types.uint16), cuda.local.array(COUNT, types.uint32)
        x, y, thread = global_view(X, 0, types.uint16), global_view(Y, 0, types.uint32), cuda.threadIdx.x
        at = cuda.grid(1)
        for c in range(8):
            tile[thread, c] = x[8 * at + c]
        cuda.syncthreads()  # all rows are written before any is read
        instruction(words, 0, tile, (thread, 0))
        for n in range(COUNT):
            y[COUNT * at + n] = words[n]

    return Kernel.of(load, THREADS, 16 * THREADS)


def mma_kernel(name):
    """Every lane has ten words: its fragments of A, B and C; it writes those of C after an mma."""
    instruction = getattr(ptx, name)

    def multiply(X, Y):
        a, b = cuda.local.array(8, types.uint32), cuda.local.array(4, types.uint32)
        acc = cuda.local.array(8, types.float32)
        at = cuda.grid(1)
        words, sums = global_view(X, WORDS * at, types.uint32), global_view(X, WORDS * at, types.float32)
        y = global_view(Y, 4 * at, types.float32)
        for n in range(4):
            a[4 + n] = words[n]
            acc[4 + n] = sums[6 + n]
        for n in range(2):
            b[2 + n] = words[4 + n]
        instruction(acc, 1, a, 1, b, 1)
        for n in range(4):
            y[n] = acc[4 + n]

    return Kernel.of(multiply, THREADS)


def convert_kernel(name):
    """Pairs of float32, or single ones, to 32 bits."""
    instruction = getattr(ptx, name)
    PAIRS = name.endswith("x2")

    def convert(X, Y):
        i = cuda.grid(1)
        x, y = global_view(X, 0, types.float32), global_view(Y, 0, types.uint32)
        y[i] = instruction(x[2 * i], x[2 * i + 1]) if PAIRS else instruction(x[2 * i])

    return Kernel.of(convert, THREADS)


def copy_part_kernel():
    """Thread t copies the first t % 9 of eight 16-bit elements; twos are written back."""

    def copy_parts(X, Y):
        tile, thread, at = shared_tile(0, (THREADS, 8), types.uint16), cuda.threadIdx.x, cuda.grid(1)
        copy_part(tile, (thread, 0), global_view(X, 0, types.uint16), 8 * at, 8, thread % 9)
        commit_copies()
        wait_copies(0)
        cuda.syncthreads()  # all rows have landed before any is read
        y = global_view(Y, 0, types.uint16)
        for c in range(0, 8, 2):
            store2(y, 8 * at + c, (tile[thread, c], tile[thread, c + 1]))

    return Kernel.of(copy_parts, THREADS, 16 * THREADS)


def product_kernel(a_lies, b_lies):
    """C = A @ B of (16, 16) float16 matrices by one warp; "transposed" operands are A^T, B^T in memory."""
    A_DOWN, B_DOWN = a_lies == "straight", b_lies == "straight"
    load_a = ldmatrix_x4 if A_DOWN else ldmatrix_x4_trans
    load_b = ldmatrix_x4_trans if B_DOWN else ldmatrix_x4

    def product(X, Y):
        tile = shared_tile(0, (32, 16), types.uint16)
        a, b = cuda.local.array(4, types.uint32), cuda.local.array(4, types.uint32)
        acc = cuda.local.array(8, types.float32)
        lane = cuda.threadIdx.x
        x, y = global_view(X, 0, types.uint16), global_view(Y, 0, types.float32)
        for c in range(16):
            tile[lane, c] = x[16 * lane + c]
        cuda.syncwarp()  # A and B are written before any lane reads them
        for n in range(8):
            acc[n] = y[8 * lane + n]
        r, c = down_then_right(lane) if A_DOWN else right_then_down(lane)
        load_a(a, 0, tile, (r, c))
        r, c = down_then_right(lane) if B_DOWN else right_then_down(lane)
        load_b(b, 0, tile, (16 + r, c))
        for n in range(2):
            mma_float16(acc, n, a, 0, b, n)
        for n in range(8):
            y[8 * lane + n] = acc[n]

    return Kernel.of(product, 32, 2 * 32 * 16)


LOADS = [f"ldmatrix_x{count}{how}" for count in (1, 2, 4) for how in ("", "_trans")]
PRODUCTS = ["mma_float16", "mma_bfloat16", "mma_tf32"]
CONVERSIONS = ["float32_to_float16x2", "float32_to_bfloat16x2", "float32_to_tf32"]

# For every kernel: the instruction that its PTX contains.
COMPILED = {
    name: (load_kernel, f"ldmatrix.sync.aligned.m8n8.{name[9:].replace('_', '.')}.shared.b16") for name in LOADS
} | {
    "mma_float16": (mma_kernel, "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"),
    "mma_bfloat16": (mma_kernel, "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"),
    "mma_tf32": (mma_kernel, "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"),
    "float32_to_float16x2": (convert_kernel, "cvt.rn.f16x2.f32"),
    "float32_to_bfloat16x2": (convert_kernel, "cvt.rn.bf16x2.f32"),
    "float32_to_tf32": (convert_kernel, "cvt.rna.tf32.f32"),
}
