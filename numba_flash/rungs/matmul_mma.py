"""matmul_mma as the host sees it. The kernel is in numba_flash/kernels/matmul_mma.py."""

from __future__ import annotations

from collections.abc import Sequence

from numba_flash.arrays import ITEMSIZE, Array
from numba_flash.config import LANES, Device, Loads, MmaTiles, Stores
from numba_flash.matmul_problem import MatmulProblem
from numba_flash.rungs.arguments import grid_reasons, kind_of_parts, kind_of_stores, mma_reasons
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.tiling import cdiv
from numba_flash.traffic import Traffic

WIDTH = 2  # bytes of a number in shared memory
SLICE = 16  # the depth of a product of fragments; behind the last slice one more is loaded

# By kind of loads, for as much shared memory as there is: a block of 192, 144 or 64 KB. One element at a time needs
# registers for addresses.
CHUNKS = [
    MmaTiles(256, 128, 64, 64, 64, stages=4),
    MmaTiles(256, 128, 64, 64, 64, stages=3),
    MmaTiles(128, 128, 64, 64, 64, stages=2),
]
CONFIGS: dict[Loads, list[MmaTiles]] = {
    "copies": CHUNKS,
    "parts": CHUNKS,
    "elements": [MmaTiles(128, 128, 32, 64, 32, stages=2)],
}


def tiles_of(problem: MatmulProblem, device: Device) -> MmaTiles:
    """The tile sizes for a problem on a device."""
    table = CONFIGS[kind_of_parts(problem, problem.K, problem.N)]
    return next((t for t in table if shared_bytes(t) <= device.shared_bytes), table[-1])


def shared_bytes(t: MmaTiles) -> int:
    """As and Bs of every stage."""
    return t.stages * (t.BM + t.BN) * t.BK * WIDTH


def why_not(problem: MatmulProblem, device: Device) -> list[str]:
    """Why this kernel cannot solve the problem on the device; empty if it can."""
    return mma_reasons(device) + grid_reasons(grid(problem, tiles_of(problem, device)))


def stores_of(problem: MatmulProblem) -> Stores:
    """How C is written: only 16-bit numbers need to meet before they are 16 bytes."""
    kind = kind_of_stores(problem.N)
    return "pairs" if kind == "chunks" and ITEMSIZE[problem.out_dtype] != WIDTH else kind


def grid(problem: MatmulProblem, t: MmaTiles) -> int:
    """How many blocks the product takes."""
    return cdiv(problem.M, t.BM) * cdiv(problem.N, t.BN) * problem.B


def launches(problem: MatmulProblem, device: Device, x: Sequence[Array], c: Array) -> list[Launch]:
    """The launch that writes c (B, M, N), contiguous; x holds a and b."""
    a, b = x
    tiles, loads = tiles_of(problem, device), kind_of_parts(problem, problem.K, problem.N)
    config = (tiles, problem.dtype, problem.out_dtype, loads, stores_of(problem))
    kernel = Kernel("matmul_mma", config, tiles.threads, shared_bytes(tiles))
    strides = [(x.strides[0], 0, *x.strides[1:]) for x in (a, b)]
    args = (a, strides[0], b, strides[1], Written(c), problem.M, problem.N, problem.K)
    return [Launch(kernel, grid(problem, tiles), args)]


def traffic(problem: MatmulProblem, device: Device) -> Traffic:
    """What all threads move where M, N and K are multiples of the tiles."""
    t = tiles_of(problem, device)
    blocks, warps, tiles = grid(problem, t), t.threads // LANES, (t.BM + t.BN) * t.BK
    steps, results = blocks * cdiv(problem.K, t.BK), problem.B * problem.M * problem.N
    met = results if stores_of(problem) == "chunks" else 0  # numbers of C that meet in shared memory
    return Traffic(
        global_read=steps * tiles * ITEMSIZE[problem.dtype],
        global_written=results * ITEMSIZE[problem.out_dtype],
        shared_read=((steps * t.BK + blocks * SLICE) * warps * (t.WM + t.WN) + met) * WIDTH,
        shared_written=(steps * tiles + met) * WIDTH,
    )
