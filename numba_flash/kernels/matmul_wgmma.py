"""Matrix product by warpgroups.        New here: one warp only copies, others only multiply, and they never meet.

Paper      PTX ISA, wgmma.mma_async, cp.async.bulk.tensor and mbarrier; the persistent kernels of CUTLASS for Hopper
Grid       as many blocks as multiprocessors, each of which goes through every so many tiles of C
           Threads 128: one starts all copies, then 128 for every 64 rows of the tile
Shapes     A (B, M, K), B (B, K, N), 16 bits, rows or columns on 16 bytes -> C (B, M, N)
On chip    | stages x (As BM x BK | Bs BK x BN) | C, 2 x 64 rows for each warpgroup | barriers |   rows of 128 bytes
           acc 64 x BN float32 of a warpgroup in registers
Invariant  after step t: acc = sum of A[row, x] B[x, col] over x < (t + 1)*BK
           stage n is FULL when its copies have landed, FREE when every warpgroup has multiplied it; by turns
Timeline   copies       stages 0 1 2 3 : 0 again, when all have multiplied it : 1 ...         next tile's : ...
           warpgroups   :0 is full: products : 1 : 2 : 3 : 0 ...   :C by way of shared memory: products ...
Units      those of the inputs; sums in float32, in the order of the hardware
Edges      copies give zeros beyond M, N, K and leave out what C has not
Traffic    reads A cdiv(N, BN) times and B cdiv(M, BM) times; 64 + BN shared numbers for 64*BN products
"""

from __future__ import annotations

from functools import cache

from numba import cuda, float32, uint32, uint64

from numba_flash import ptx
from numba_flash.arrays import ITEMSIZE
from numba_flash.config import BARRIER_BYTES, MAP_WORDS, ROW_BYTES, WARPGROUP, WARPGROUP_ROWS, WgmmaTiles
from numba_flash.device.boxes import init_mbarriers, make_load_panels, make_store_panels, write_map
from numba_flash.device.number import number
from numba_flash.device.tiles import fill
from numba_flash.device.warpgroups import make_issue, warpgroup
from numba_flash.ptx import (
    acquire_map,
    give_registers,
    global_view,
    mbarrier_arrive,
    mbarrier_expect,
    mbarrier_wait,
    pin,
    publish_mbarriers,
    release_maps,
    shared_address,
    shared_tile,
    take_registers,
    wait_stores,
    wgmma_fence,
    wgmma_wait,
)
from numba_flash.tiling import cdiv, grouped


@cache
def make_matmul_wgmma(tiles: WgmmaTiles, dtype: str, out_dtype: str, a_across: bool, b_across: bool):
    """The kernel for tile sizes, dtypes, and how A and B lie: is it M, is it N that is contiguous in memory?"""
    BM, BN, BK, STAGES, GROUP = tiles.BM, tiles.BN, tiles.BK, tiles.stages, tiles.group
    CONSUMERS, SUMS, (FEW, MANY) = tiles.consumers, BN // 2, tiles.registers
    A_BYTES, STAGE = 2 * BM * BK, 2 * (BM + BN) * BK
    C_AT = STAGES * STAGE
    C_SHAPE, WORD = (CONSUMERS * 2 * WARPGROUP_ROWS, ROW_BYTES // 4), float32 if ITEMSIZE[out_dtype] == 4 else uint32
    FULL = C_AT + CONSUMERS * 2 * WARPGROUP_ROWS * ROW_BYTES
    FREE = FULL + BARRIER_BYTES * STAGES
    A_MAP, B_MAP, C_MAP, MAPS = 0, 1, 2, 3
    ZERO = number(dtype).zero
    load_a, load_b = make_load_panels(BM, BK, a_across), make_load_panels(BN, BK, b_across)
    a_panel, b_panel = ((BK if across else n) * ROW_BYTES for across, n in ((a_across, BM), (b_across, BN)))
    issue = make_issue(dtype, BN, BK, a_panel, b_panel, a_across, b_across)
    store_panels = make_store_panels(out_dtype, BN, 2, WARPGROUP_ROWS)

    @ptx.device
    def place(tile, tiles_m, tiles_n):  # of a tile of C: matrix, row, column
        i, j = grouped(tile % (tiles_m * tiles_n), tiles_m, tiles_n, GROUP)
        return tile // (tiles_m * tiles_n), i * BM, j * BN

    @ptx.device
    def turn(n):  # of step n: the stage, and the parity of its phase
        return n % STAGES, n // STAGES & 1

    def matmul_wgmma(A, A_words, B, B_words, C, C_words, maps, M, N, K, matrices, each):
        tid, smem = cuda.threadIdx.x, shared_address(0)
        maps = global_view(maps, cuda.blockIdx.x * MAPS * MAP_WORDS, uint64)
        if tid == 0:
            write_map(maps, A_MAP, A_words, A)
            write_map(maps, B_MAP, B_words, B)
            write_map(maps, C_MAP, C_words, C)
            release_maps()
            init_mbarriers(smem + FULL, STAGES, 1)
            init_mbarriers(smem + FREE, STAGES, CONSUMERS)
            publish_mbarriers()
        cuda.syncthreads()  # maps and barriers exist before anyone uses them
        tiles_m, tiles_n, group, n = cdiv(M, BM), cdiv(N, BN), warpgroup(), 0
        if group == 0:
            give_registers(FEW)
            if tid == 0:
                acquire_map(maps, A_MAP * MAP_WORDS)
                acquire_map(maps, B_MAP * MAP_WORDS)
                for tile in range(cuda.blockIdx.x, tiles_m * tiles_n * matrices, cuda.gridDim.x):
                    b, row, col = place(tile, tiles_m, tiles_n)
                    for x in range(0, K, BK):
                        stage, parity = turn(n)
                        full, here = smem + FULL + BARRIER_BYTES * stage, smem + STAGE * stage
                        mbarrier_wait(smem + FREE + BARRIER_BYTES * stage, parity ^ 1)
                        mbarrier_expect(full, STAGE)
                        load_a(here, maps, A_MAP, row, x, (b * each[0],), full)
                        load_b(here + A_BYTES, maps, B_MAP, col, x, (b * each[1],), full)
                        n += 1
        else:
            take_registers(MANY)
            me, copies = group - 1, tid % WARPGROUP == 0
            mine = me * WARPGROUP_ROWS
            words = shared_tile(C_AT, C_SHAPE, WORD)
            acc = cuda.local.array(SUMS, float32)
            if copies:
                acquire_map(maps, C_MAP * MAP_WORDS)
            for tile in range(cuda.blockIdx.x, tiles_m * tiles_n * matrices, cuda.gridDim.x):
                b, row, col = place(tile, tiles_m, tiles_n)
                fill(acc, SUMS, ZERO)
                for _ in range(0, K, BK):
                    stage, parity = turn(n)
                    here = smem + STAGE * stage
                    mbarrier_wait(smem + FULL + BARRIER_BYTES * stage, parity)
                    wgmma_fence()
                    issue(acc, here + mine * ROW_BYTES, here + A_BYTES)
                    wgmma_wait(0)
                    pin(acc, SUMS)
                    if copies:
                        mbarrier_arrive(smem + FREE + BARRIER_BYTES * stage)
                    n += 1
                top = 2 * mine
                store_panels(words, top, smem + C_AT + top * ROW_BYTES, acc, maps, C_MAP, row + mine, col, (b,), group)
            if copies:
                wait_stores(0)

    return matmul_wgmma
