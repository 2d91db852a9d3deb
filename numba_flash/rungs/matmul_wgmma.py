"""matmul_wgmma as the host sees it. The kernel is in numba_flash/kernels/matmul_wgmma.py."""

from __future__ import annotations

from collections.abc import Sequence

from numba_flash.arrays import ALIGNED, ITEMSIZE, Array
from numba_flash.config import BARRIER_BYTES, ROW_BYTES, WARPGROUP_ROWS, Device, WgmmaTiles
from numba_flash.matmul_problem import MatmulProblem
from numba_flash.rungs.arguments import wgmma_reasons
from numba_flash.runtime import Kernel, Launch, TensorMap, Written, map_scratch, tensor_map
from numba_flash.tiling import cdiv
from numba_flash.traffic import Traffic

WIDTH = 2  # bytes of a number of A and B
MAPS = 3

LARGE_FIRST = [WgmmaTiles(128, 256, stages=4), WgmmaTiles(128, 128, stages=5)]

# By the bytes of a number of C.
CONFIGS = {2: LARGE_FIRST, 4: LARGE_FIRST}


def tiles_of(problem: MatmulProblem, device: Device) -> WgmmaTiles:
    """The tile sizes for a problem: the first that give every multiprocessor a tile, else the smallest."""
    choices = CONFIGS[ITEMSIZE[problem.out_dtype]]
    return next((t for t in choices if count_tiles(problem, t) >= device.multiprocessors), choices[-1])


def count_tiles(problem: MatmulProblem, t: WgmmaTiles) -> int:
    """Tiles of C, of all matrices."""
    return cdiv(problem.M, t.BM) * cdiv(problem.N, t.BN) * problem.B


def shared_bytes(t: WgmmaTiles) -> int:
    """As and Bs of every stage, two panels of C for each warpgroup, and barriers."""
    return (t.BM + t.BN) * t.BK * WIDTH * t.stages + 2 * t.BM * ROW_BYTES + 2 * BARRIER_BYTES * t.stages


def why_not(problem: MatmulProblem, device: Device) -> list[str]:
    """Why this kernel cannot solve the problem on the device; empty if it can."""
    reasons = wgmma_reasons(device)
    for name, axis in zip("ab", problem.contiguous, strict=True):
        if axis is None:
            reasons.append(f"neither rows nor columns of {name} lie together and start on {ALIGNED} bytes, each once")
    if problem.out_dtype not in (problem.dtype, "float32"):
        reasons.append(f"out_dtype={problem.out_dtype} (needs {problem.dtype} or float32)")
    elif problem.N * ITEMSIZE[problem.out_dtype] % ALIGNED:
        reasons.append(f"rows of the product, {problem.N} {problem.out_dtype}, do not start on {ALIGNED} bytes")
    return reasons


def launches(problem: MatmulProblem, device: Device, x: Sequence[Array], c: Array) -> list[Launch]:
    """The launch that writes c (B, M, N), contiguous; x holds a and b."""
    each = tuple(int(operand.strides[0] != 0) for operand in x)  # 0: all matrices are the first one
    a, b = (
        operand if n else operand.strided((1, *operand.shape[1:]), operand.strides)
        for operand, n in zip(x, each, strict=True)
    )
    tiles = tiles_of(problem, device)
    grid = min(count_tiles(problem, tiles), device.multiprocessors)
    a_across, b_across = (axis == name for axis, name in zip(problem.contiguous, ("M", "N"), strict=True))
    config = (tiles, problem.dtype, problem.out_dtype, a_across, b_across)
    kernel = Kernel("matmul_wgmma", config, tiles.threads, shared_bytes(tiles))
    a_map = operand_map(a, a_across, tiles.BM, tiles.BK)
    b_map = operand_map(b.transposed(), b_across, tiles.BN, tiles.BK)
    args = (a, a_map, b, b_map, Written(c), tensor_map(c, WARPGROUP_ROWS), Written(map_scratch(c, grid, MAPS)))
    return [Launch(kernel, grid, (*args, problem.M, problem.N, problem.K, problem.B, each))]


def operand_map(x: Array, across: bool, length: int, depth: int) -> TensorMap:
    """The map of x (B, length, depth), in boxes of a panel: so many rows, or where it lies across, so many columns."""
    return tensor_map(x.transposed(), depth) if across else tensor_map(x, length)


def traffic(problem: MatmulProblem, device: Device) -> Traffic:
    """What all threads move."""
    t, p = tiles_of(problem, device), problem
    tiles, itemsize = count_tiles(p, t), ITEMSIZE[p.out_dtype]
    steps, results = tiles * cdiv(p.K, t.BK), tiles * t.BM * t.BN * itemsize
    maps = min(tiles, device.multiprocessors) * MAPS * ROW_BYTES
    return Traffic(
        global_read=p.B * (cdiv(p.N, t.BN) * p.M + cdiv(p.M, t.BM) * p.N) * p.K * WIDTH,
        global_written=p.B * p.M * p.N * itemsize + maps,
        shared_read=steps * t.consumers * (WARPGROUP_ROWS + t.BN) * t.BK * WIDTH + results,
        shared_written=steps * (t.BM + t.BN) * t.BK * WIDTH + results,
    )
