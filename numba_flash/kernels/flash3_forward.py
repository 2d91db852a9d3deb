"""FlashAttention-3 forward.        New here: while one warpgroup multiplies, the other takes exponentials.

Paper      Shah et al. 2024, arXiv:2407.08608: Algorithm 2, with the ping-pong and the overlap of its section 3.2
Grid       as many blocks as multiprocessors, each of which goes through every so many query blocks, longest first;
           a tile holds the few queries of all heads that share keys (`packed`)
           Threads 128: one starts all copies, then 128 for every 64 of Br query rows
Shapes     Q (B, Hq, Nq, d), K (B, Hk, Nk, d), V (B, Hk, Nk, dv), rows on 16 bytes -> O (B, Hq, Nq, dv), LSE (B, Hq, Nq)
On chip    | Qi Br x D, then Oi | stages x Kj Bc x D | stages x Vj Bc x DV | barriers |   16 bits, rows of 128 bytes
           s, acc in accumulator fragments of 64 rows a warpgroup, p in fragments of 16 x 16, m, l, alpha   registers
Invariant  after block j: m = max s, l = sum e^(s-m), acc = sum e^(s-m) v over the keys seen so far, but for acc
           that P V of block j is still to be added
           Kj, Vj, Qi are FULL when their copy has landed, FREE when every warpgroup has read them; by turns
Timeline   copies        K0 Q V0 K1 V1 : K2, when all have read K0 : V2, when all have read V0 : ...
           warpgroup 1   :S0: P0      :S1,P0 V0: P1 while P0 V0  :S2,P1 V1: P2 while P1 V1  : ...
           warpgroup 2   :S0: P0            :S1,P0 V0: P1 while P0 V0  :S2,P1 V1: P2 ...    : products start by turns
Units      LSE in nats; s too, or products as they come where the scale is `folded` into `unit`; m in base 2
           P rounded to 16 bits for its product alone
Edges      a row that sees no key: O = 0, LSE = -inf; blocks outside the band are skipped
Traffic    reads Q once, K and V once for each of Tr query blocks that sees them; writes O and LSE once: `traffic`
"""

from __future__ import annotations

from functools import cache

from numba import cuda, float32, int32, int64, uint16, uint32, uint64
from numba.types import uint8

from numba_flash.config import (
    BARRIER_BYTES,
    LANES,
    MAP_WORDS,
    PANEL,
    ROW_BYTES,
    WARPGROUP,
    WARPGROUP_ROWS,
    Fragments,
    Stores,
    WarpgroupTiles,
)
from numba_flash.device.boxes import init_mbarriers, make_load_panels, make_store_panels, write_map
from numba_flash.device.fragments import lane, make_round, make_write_fragments
from numba_flash.device.number import number
from numba_flash.device.scores import make_hide, make_modify, make_slope
from numba_flash.device.softmax import make_finish, make_online_softmax, make_rescale
from numba_flash.device.tiles import fill, head
from numba_flash.device.warpgroups import make_issue, make_issue_registers, warpgroup
from numba_flash.problem import ScoreOptions
from numba_flash.ptx import (
    acquire_map,
    await_number,
    barrier_arrive,
    barrier_sync,
    device,
    give_registers,
    global_view,
    mbarrier_arrive,
    mbarrier_expect,
    mbarrier_wait,
    opaque,
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
from numba_flash.tiling import all_visible, cdiv, key_blocks, longest_first, quotient


@cache
def make_flash3_forward(
    tiles: WarpgroupTiles, dtype: str, stores: Stores, score: ScoreOptions, folded: bool, packed: int
):
    """The kernel for tile sizes, dtype, kind of stores (of chunks: in boxes), score options and query heads of a tile.

    `folded` as in `folds_scale`.
    """
    Br, Bc, D, DV, STAGES = tiles.Br, tiles.Bc, tiles.D, tiles.DV, tiles.stages
    QUERIES, OF_A_GROUP = Br // packed, WARPGROUP_ROWS // packed
    CONSUMERS, PING_PONG, (FEW, MANY) = tiles.consumers, tiles.consumers > 1, tiles.registers
    scores, out = Fragments(Br // 2, 2, Bc // 4), Fragments(Br // 2, 2, DV // 4)
    SCORES, OUT, P = scores.size, out.size, scores.size // 2
    Q_PANELS, Q_PANEL, KV_PANEL = cdiv(D, PANEL), Br * ROW_BYTES, Bc * ROW_BYTES
    Q_BYTES, K_BYTES, V_BYTES = Q_PANELS * Q_PANEL, Q_PANELS * KV_PANEL, cdiv(DV, PANEL) * KV_PANEL
    K_AT = Q_BYTES
    V_AT = K_AT + STAGES * K_BYTES
    K_FULL = V_AT + STAGES * V_BYTES
    K_FREE, V_FULL, V_FREE, Q_FULL = (K_FULL + BARRIER_BYTES * STAGES * n for n in (1, 2, 3, 4))
    Q_FREE = Q_FULL + BARRIER_BYTES
    O_SHAPE, BOXED = (Q_PANELS * Br, ROW_BYTES // 4), stores == "chunks"
    Q_MAP, K_MAP, V_MAP, O_MAP, MAPS = 0, 1, 2, 3, 3 + BOXED
    TURN, OWN = 1, 1 + CONSUMERS  # the first of the named barriers by which warpgroups take turns, and of their own
    numbers = number(dtype)
    ZERO, NEG_INF, NAT = numbers.zero, numbers.neg_inf, numbers.nat
    BIAS, SLOPE = number(score.bias or dtype).stored, number(score.alibi or dtype).stored

    load_q, load_k = (make_load_panels(rows, D, False) for rows in (Br, Bc))
    load_v = make_load_panels(DV, Bc, True)
    issue_qk = make_issue(dtype, Bc, D, Q_PANEL, KV_PANEL, fresh=True)
    issue_pv = make_issue_registers(dtype, DV, Bc, KV_PANEL)
    modify, hide = make_modify(scores, score, dtype), make_hide(scores, dtype, packed)
    slope_of = make_slope(score, dtype)
    online_softmax, round_to = make_online_softmax(scores, dtype, tiles.multiplied), make_round(dtype, scores)
    rescale, finish = make_rescale(out), make_finish(out, dtype, packed)
    store_panels = make_store_panels(dtype, DV, Q_PANELS, Br)
    write_o = make_write_fragments(dtype, 16, DV, stores == "pairs")

    @device
    def turn(n):  # of key block number n in a block's life: the stage, and the parity of its phase
        n = uint32(n)  # that cannot be negative: a division of few instructions
        return n % STAGES, n // STAGES & 1

    @device
    def place(work, Tr, heads, together, H):  # a query block's number, its head of H (or group of heads), batch entry
        i, bh = longest_first(int32(work), Tr, int32(heads), int32(together))
        i, bh = int32(i), int32(bh)
        b = quotient(bh, H)
        return i, int64(bh - b * H), b

    @device
    def copy_tiles(smem, maps, sizes, band, heads, together):  # what the thread does that only copies
        Hq, Hk, Nq, Nk, d, dv = sizes
        Tr, H, n = int32(cdiv(Nq, QUERIES)), Hq // packed, 0
        for tile, work in enumerate(range(cuda.blockIdx.x, Tr * heads, cuda.gridDim.x)):
            i, h, b = place(work, Tr, heads, together, H)
            keys = (quotient(h, quotient(H, Hk)), b)
            begin, end = key_blocks(i, QUERIES, Bc, Nq, Nk, band[0], band[1])
            for j in range(begin, max(end, begin + 1)):
                stage, parity = turn(n)
                if j < end:
                    full = smem + K_FULL + BARRIER_BYTES * stage
                    mbarrier_wait(smem + K_FREE + BARRIER_BYTES * stage, parity ^ 1)
                    mbarrier_expect(full, K_BYTES)
                    load_k(smem + K_AT + stage * K_BYTES, maps, K_MAP, j * Bc, 0, keys, full)
                if j == begin:
                    mbarrier_wait(smem + Q_FREE, tile & 1 ^ 1)
                    mbarrier_expect(smem + Q_FULL, Q_BYTES)
                    load_q(smem, maps, Q_MAP, 0, 0, (i * QUERIES, h, b), smem + Q_FULL)
                if j < end:
                    full = smem + V_FULL + BARRIER_BYTES * stage
                    mbarrier_wait(smem + V_FREE + BARRIER_BYTES * stage, parity ^ 1)
                    mbarrier_expect(full, V_BYTES)
                    load_v(smem + V_AT + stage * V_BYTES, maps, V_MAP, 0, j * Bc, keys, full)
                    n += 1

    @device
    def start_scores(s, Qi, smem, n):  # lines 7 and 8: S = Qi Kj^T, when Kj is there
        stage, parity = turn(n)
        mbarrier_wait(smem + K_FULL + BARRIER_BYTES * stage, parity)
        wgmma_fence()
        issue_qk(s, opaque(Qi), smem + K_AT + stage * K_BYTES)

    @device
    def start_sums(acc, p, smem, n):  # lines 9 and 10: O = O + P~ Vj, when Vj is there
        stage, parity = turn(n)
        mbarrier_wait(smem + V_FULL + BARRIER_BYTES * stage, parity)
        wgmma_fence()
        issue_pv(acc, p, smem + V_AT + stage * V_BYTES)

    @device
    def free(first, n, leads):  # lines 4 and 14: a stage may be written again
        stage, _ = turn(n)
        if leads:
            mbarrier_arrive(first + BARRIER_BYTES * stage)

    @device
    def to_scores(s, derivative, rg, cg, row0, col0, sizes, band, factors, views):  # products become scores
        _, _, Nq, Nk, _, _ = sizes
        first, last, q_offset = band
        scale, softcap, slope = factors
        bias, bias_strides, mask, mask_strides = views
        if not folded:
            modify(
                s, derivative, rg, cg, row0, col0, Nq, Nk, scale, softcap, slope, q_offset, bias, bias_strides, mask,
                mask_strides,
            )  # fmt: skip
        if not all_visible(row0, col0, QUERIES, Bc, Nk, first, last):
            hide(s, rg, cg, row0, col0, Nk, first, last)

    @device
    def attend(acc, m, l, s, p, n, smem, me, rows, blocks, sizes, band, factors, views, unit):
        """Algorithm 2, lines 3 to 18, of one query block and key blocks number n and on; returns the number behind."""
        (rg, cg, row0), (begin, end) = rows, blocks
        alpha, derivative = cuda.local.array(2, float32), cuda.local.array(SCORES, float32)
        Qi, leads = smem + me * WARPGROUP_ROWS * ROW_BYTES, cuda.threadIdx.x % WARPGROUP == 0
        start_scores(s, Qi, smem, n)
        wgmma_wait(0)
        pin(s, SCORES)
        free(smem + K_FREE, n, leads)
        to_scores(s, derivative, rg, cg, row0, begin * Bc, sizes, band, factors, views)
        online_softmax(s, m, l, alpha, unit)
        round_to(p, s)
        for j in range(begin + 1, end):  # the products S = Q Kj^T and P V of the block before run behind one another
            if PING_PONG:
                barrier_sync(TURN + me, 2 * WARPGROUP)  # it is this warpgroup's turn to start products
            start_scores(s, Qi, smem, n + 1)
            start_sums(acc, p, smem, n)
            if PING_PONG:
                barrier_arrive(TURN + (me + 1) % CONSUMERS, 2 * WARPGROUP)  # it is the next one's turn
            wgmma_wait(1)
            pin(s, SCORES)
            free(smem + K_FREE, n + 1, leads)
            to_scores(s, derivative, rg, cg, row0, j * Bc, sizes, band, factors, views)
            online_softmax(s, m, l, alpha, unit)  # line 12: m, P~, l, while P V is still computed
            await_number(l[0] + l[1])
            wgmma_wait(0)
            pin(acc, OUT)
            free(smem + V_FREE, n, leads)
            rescale(acc, alpha)  # line 13: O = diag(alpha) O
            round_to(p, s)
            n += 1
        start_sums(acc, p, smem, n)
        wgmma_wait(0)
        pin(acc, OUT)
        free(smem + V_FREE, n, leads)
        return n + 1

    @device
    def compute(me, smem, maps, O, LSE, sizes, band, heads, together, scale, softcap, one, options):
        """What a warpgroup does that computes: its rows of every query block of this block."""
        Hq, Hk, Nq, Nk, d, dv = sizes
        bias, bias_strides, mask, mask_strides, slopes, slopes_strides = options
        words, leads = shared_tile(0, O_SHAPE, uint32), cuda.threadIdx.x % WARPGROUP == 0
        mine = me * WARPGROUP_ROWS
        warp_row = int32(mine + cuda.threadIdx.x % WARPGROUP // LANES * 16)
        rg, cg = int32(warp_row + lane() // 4), int32(lane() % 4)
        s, p = cuda.local.array(SCORES, float32), cuda.local.array(P, uint32)
        acc, m, l = cuda.local.array(OUT, float32), cuda.local.array(2, float32), cuda.local.array(2, float32)
        unit, Tr, H, n = (scale if folded else one) * NAT, int32(cdiv(Nq, QUERIES)), Hq // packed, 0
        if leads and BOXED:
            acquire_map(maps, O_MAP * MAP_WORDS)
        if PING_PONG and me == CONSUMERS - 1:
            barrier_arrive(TURN, 2 * WARPGROUP)  # the first warpgroup has the first turn
        for tile, work in enumerate(range(cuda.blockIdx.x, Tr * heads, cuda.gridDim.x)):
            i, h, b = place(work, Tr, heads, together, H)
            row0 = i * QUERIES
            bias_h = global_view(bias, head(bias_strides, b, h), BIAS)
            mask_h = global_view(mask, head(mask_strides, b, h), uint8)
            slope = slope_of(global_view(slopes, head(slopes_strides, b, h), SLOPE), 0)
            views, factors = (bias_h, bias_strides, mask_h, mask_strides), (scale, softcap, slope)
            begin, end = key_blocks(i, QUERIES, Bc, Nq, Nk, band[0], band[1])
            fill(m, 2, NEG_INF)
            fill(l, 2, ZERO)
            fill(acc, OUT, ZERO)
            fill(s, SCORES, ZERO)
            mbarrier_wait(smem + Q_FULL, tile & 1)
            if begin < end:
                rows = rg, cg, row0
                n = attend(acc, m, l, s, p, n, smem, me, rows, (begin, end), sizes, band, factors, views, unit)
            bh = b * Hq + h * packed
            finish(acc, m, l, global_view(LSE, bh * Nq, float32), rg, cg, row0, Nq)  # line 19
            if BOXED:  # by way of the warpgroup's own rows of Qi
                address, matrix = smem + mine * ROW_BYTES, (row0 + me * OF_A_GROUP, h, b)
                store_panels(words, mine, address, acc, maps, O_MAP, 0, 0, matrix, OWN + me)
            else:
                write_o(global_view(O, bh * Nq * dv, uint16), dv, acc, row0 + warp_row, 0, Nq, dv)
            if leads:
                wait_stores(0)
                mbarrier_arrive(smem + Q_FREE)

    def flash3_forward(
        Q, Q_words, K, K_words, V, V_words, O, O_words, LSE, maps,
        bias, bias_strides, mask, mask_strides, slopes, slopes_strides, sizes, band, scale, softcap, one, together,
        heads,
    ):  # fmt: skip
        tid, group, smem = cuda.threadIdx.x, warpgroup(), shared_address(0)
        maps = global_view(maps, cuda.blockIdx.x * MAPS * MAP_WORDS, uint64)
        if tid == 0:
            write_map(maps, Q_MAP, Q_words, Q)
            write_map(maps, K_MAP, K_words, K)
            write_map(maps, V_MAP, V_words, V)
            if BOXED:
                write_map(maps, O_MAP, O_words, O)
            release_maps()
            for full, freed in ((K_FULL, K_FREE), (V_FULL, V_FREE)):
                init_mbarriers(smem + full, STAGES, 1)
                init_mbarriers(smem + freed, STAGES, CONSUMERS)
            init_mbarriers(smem + Q_FULL, 1, 1)
            init_mbarriers(smem + Q_FREE, 1, CONSUMERS)
            publish_mbarriers()
        cuda.syncthreads()  # maps and barriers exist before anyone uses them
        if group == 0:
            give_registers(FEW)
            if tid == 0:
                acquire_map(maps, Q_MAP * MAP_WORDS)
                acquire_map(maps, K_MAP * MAP_WORDS)
                acquire_map(maps, V_MAP * MAP_WORDS)
                copy_tiles(smem, maps, sizes, band, heads, together)
        else:
            take_registers(MANY)
            options = bias, bias_strides, mask, mask_strides, slopes, slopes_strides
            compute(group - 1, smem, maps, O, LSE, sizes, band, heads, together, scale, softcap, one, options)

    return flash3_forward
