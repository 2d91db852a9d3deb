"""FlashAttention-3 backward.        New here: five products of a tile by warpgroups, while a warp copies the next one.

Paper      Shah et al. 2024, arXiv:2407.08608, appendix B.1, on Algorithm 2 of Dao 2023, arXiv:2307.08691: one kernel
           over key blocks, dQ a sum of atomic additions; deterministic, in order, as in `flash2_mma_backward`
Grid       (Tc * B*Hk,)     Threads 128: one warp starts all copies, and where additions are ordered one awaits turns
           and one ends them; then 128 for every 64 of Bc keys, or QG times as many, which share queries of the scores
           and columns of dK and dV
Shapes     dO (B, Hq, Nq, dv), Q, K, V as in the forward, rows on 16 bytes; rows (B, Hq, Mq, 2): LSE and delta
           -> dQ as sums (`passes.collect`), dK (B, Hk, Nk, d), dV (B, Hk, Nk, dv), contiguous
On chip    | Kj Bc x D | Vj Bc x DV | stages x (Qi Br x D) | stages x (dOi Br x DV) | stages x rows | 2 x (dS Bc x Br) |
           2 x (P Bc x Br) | barriers |   in 16 bits, rows of 128 bytes; P only where warpgroups share it
           s, dp in accumulator fragments of S^T and dP^T, p in fragments of 16 x 16, dk, dv_, dq   registers
Invariant  after a step, dV = sum P^T dO, dK = sum dS^T Q over the query blocks met so far
           Qi with its rows, and dOi, are FULL when their copy has landed, FREE when every warp has read both; by turns
           in order: a TURN COMES when the key blocks before have added to dQi, and ENDS when every warp has
Timeline   copies        K V Q0 dO0 Q1 dO1 : Q2 dO2, when all have read Q0 and dO0 : ...
           warpgroup 1   :S0 dP0: P0 while dP0 :dV0: dS0 while dV0 | dS0 from all |dQ0 dK0: dQ0 is added :S1 dP1: ...
           or (`direct`) ... dS0 while dV0 :dK0: while dS0 is written | dS0 from all |dQ0: dQ0 is added :S1 dP1: ...
           warpgroup 2   the same, its products in the gaps of the other's
Units      LSE in base 2, s in products or nats; dK takes the scale at the end, dQ when it is collected
Edges      a row that sees no key (LSE = -inf): P = 0, so it gives and gets gradients of 0
Traffic    K, V once, Q, dO Tc times, dQ Tc times added to, once cleared and once collected: `traffic`
"""

from __future__ import annotations

from functools import cache

from numba import cuda, float32, int32, uint16, uint32, uint64
from numba.types import uint8

from numba_flash.config import (
    BARRIER_BYTES,
    MAP_WORDS,
    PANEL,
    ROW_BYTES,
    WARPGROUP,
    WARPGROUP_ROWS,
    WARPS,
    Adds,
    TransposedFragments,
    WarpgroupGradientTiles,
)
from numba_flash.device.boxes import (
    init_mbarriers,
    make_load_panels,
    make_store_rows,
    make_write_panel,
    row_of_thread,
    write_map,
)
from numba_flash.device.fragments import lane, make_add_sums, make_round, make_write_fragments
from numba_flash.device.gradients import (
    make_hide_gradient,
    make_probabilities,
    make_read_boxed_rows,
    make_score_gradients,
)
from numba_flash.device.number import LOG2_E, number
from numba_flash.device.scores import make_modify, make_slope
from numba_flash.device.tiles import fill, head
from numba_flash.device.turns import TURNS, make_number_of_block
from numba_flash.device.warpgroups import make_issue, make_issue_registers, warp, warpgroup
from numba_flash.problem import ScoreOptions
from numba_flash.ptx import (
    acquire_map,
    await_turn,
    barrier_sync,
    device,
    elect,
    end_turn,
    fence_shared,
    give_registers,
    global_view,
    load_box,
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
from numba_flash.rungs.flash3_backward import ROW_NUMBERS, ROWS_TOGETHER, barrier_bytes, nbytes, offsets
from numba_flash.tiling import all_visible, cdiv, key_blocks, longest_first, query_blocks, quotient


@cache
def make_flash3_backward(
    tiles: WarpgroupGradientTiles, dtype: str, boxed: bool, score: ScoreOptions, adds: Adds, ordered: bool
):
    """A block owns one key block of one KV head.

    boxed : dK and dV leave in boxes, as their rows start on 16 bytes
    ordered : the blocks of a head add to dQ one after another, from the first keys to the last
    """
    Br, Bc, D, DV, STAGES, QG = tiles.Br, tiles.Bc, tiles.D, tiles.DV, tiles.stages, tiles.QG
    CONSUMERS, QUERIES, (FEW, MANY) = tiles.consumers, tiles.queries, tiles.registers
    SHARED, MODIFIES = QG > 1, score != ScoreOptions()
    DK_COLUMNS, DV_COLUMNS, DQ_COLUMNS, DQ_BLOCKS = D // QG, DV // QG, tiles.dq_columns, tiles.dq_blocks
    scores = TransposedFragments(Bc // 2, QUERIES // 4, 2)
    SCORES, DK, DV_, DQ, P = scores.size, DK_COLUMNS // 2, DV_COLUMNS // 2, DQ_COLUMNS // 2, scores.size // 2
    Q_PANEL, KV_PANEL, S_PANEL = Br * ROW_BYTES, Bc * ROW_BYTES, Bc * ROW_BYTES
    K_BYTES, V_BYTES, Q_BYTES, O_BYTES, _, S_BYTES = nbytes(tiles)
    V_AT, Q_AT, O_AT, ROWS_AT, S_AT, P_AT, BARRIERS_AT = offsets(tiles)
    ROWS_BYTES = (S_AT - ROWS_AT) // STAGES
    K_FULL, V_FULL = BARRIERS_AT, BARRIERS_AT + BARRIER_BYTES
    Q_FULL, O_FULL, FREE = (BARRIERS_AT + BARRIER_BYTES * (2 + STAGES * n) for n in range(3))
    Q_MAP, K_MAP, V_MAP, O_MAP, ROWS_MAP, READ_MAPS = 0, 1, 2, 3, 4, 5
    DK_MAP, DV_MAP, MAPS = 5, 6, READ_MAPS + 2 * boxed
    TURN_COMES, TURN_ENDS, TURN_FREE = (FREE + BARRIER_BYTES * (STAGES + 2 * n) for n in range(3))
    NUMBER_AT = BARRIERS_AT + barrier_bytes(tiles)
    ALL, OWN = 1, 2  # the named barriers of all that compute, and the first of the warpgroups' own
    ROWS_SHAPE, WORDS_SHAPE = ((size // ROW_BYTES, ROW_BYTES // 4) for size in (S_AT - ROWS_AT, BARRIERS_AT))
    ZERO, LINES = number(dtype).zero, scores.TM
    BIAS, SLOPE = number(score.bias or dtype).stored, number(score.alibi or dtype).stored

    load_q, load_k = (make_load_panels(rows, D, False) for rows in (Br, Bc))
    load_do, load_v = (make_load_panels(rows, DV, False) for rows in (Br, Bc))
    issue_s = make_issue(dtype, QUERIES, D, KV_PANEL, Q_PANEL, fresh=True)
    issue_dp = make_issue(dtype, QUERIES, DV, KV_PANEL, Q_PANEL, fresh=True)
    own_dv, own_dk = (make_issue_registers(dtype, width, Br, Q_PANEL) for width in (DV, D))
    issue_dv, issue_dk = (
        make_issue(dtype, width, Br, S_PANEL, Q_PANEL, b_across=True) for width in (DV_COLUMNS, DK_COLUMNS)
    )
    issue_dq = make_issue(dtype, DQ_COLUMNS, Bc, S_PANEL, KV_PANEL, a_across=True, b_across=True, fresh=True)
    modify, hide = make_modify(scores, score, dtype, differentiated=True), make_hide_gradient(scores)
    read_rows, slope_of = make_read_boxed_rows(LINES), make_slope(score, dtype)
    probabilities, score_gradients = make_probabilities(scores), make_score_gradients(scores, score)
    round_to, write_panel = make_round(dtype, scores), make_write_panel(dtype, QUERIES)
    add_dq = make_add_sums(DQ, tiles.adders, adds, WARPGROUP)
    number_of_block = make_number_of_block(ordered, NUMBER_AT)
    store_dk, store_dv = (make_store_rows(dtype, width, Bc) for width in (DK_COLUMNS, DV_COLUMNS))
    write_dk, write_dv = (make_write_fragments(dtype, 16, width, False) for width in (DK_COLUMNS, DV_COLUMNS))

    @device
    def stage_of(n):  # of query block number n of the block: its stage, and the parity of its phase
        n = uint32(n)
        return uint32(n % STAGES), uint32(n // STAGES & 1)

    @device
    def query_block(n, block):  # number n of the block's life: of which head of the group, and its number there
        _, _, _, begin, end = block
        head = int32(quotient(n, int32(end - begin)))
        return head, int32(end - 1 - (n - head * (end - begin)))  # from the last one: the first keys meet it

    @device
    def copy_tiles(smem, maps, block, group):  # what the warp does that only copies
        (j, hk, b, begin, end), copies = block, elect() != 0
        first_key, keys, met = int32(j * Bc), (hk, b), int32(end - begin)
        if copies and met > 0:
            mbarrier_expect(smem + K_FULL, K_BYTES)
            load_k(smem, maps, K_MAP, first_key, 0, keys, smem + K_FULL)
            mbarrier_expect(smem + V_FULL, V_BYTES)
            load_v(smem + V_AT, maps, V_MAP, first_key, 0, keys, smem + V_FULL)
        for n in range(int32(group * met)):
            (stage, parity), (over, i) = stage_of(n), query_block(n, block)
            queries = int32(hk * group + over), b
            full = smem + Q_FULL + BARRIER_BYTES * stage
            mbarrier_wait(smem + FREE + BARRIER_BYTES * stage, parity ^ 1)
            if copies:
                mbarrier_expect(full, Q_BYTES + Br * ROW_NUMBERS * 4)
                load_q(smem + Q_AT + stage * Q_BYTES, maps, Q_MAP, int32(i * Br), 0, queries, full)
                corner = (0, int32(i * (Br // ROWS_TOGETHER)), *queries)
                load_box(smem + ROWS_AT + stage * ROWS_BYTES, maps, MAP_WORDS * ROWS_MAP, corner, full)
                full = smem + O_FULL + BARRIER_BYTES * stage
                mbarrier_expect(full, O_BYTES)
                load_do(smem + O_AT + stage * O_BYTES, maps, O_MAP, int32(i * Br), 0, queries, full)

    @device
    def barriers_of_turn(smem, n):  # from where on they are, of one of two turns, and the parity of their phase
        return smem + BARRIER_BYTES * (n & 1), uint32(n >> 1 & 1)

    @device
    def place_of_turn(over, i, block, group, sizes):  # where those who have added to a query block are counted
        (_, hk, b, _, _), (Hq, _, Nq, _, _, _) = block, sizes
        return TURNS + (b * Hq + hk * group + over) * cdiv(Nq, Br) + i

    @device
    def await_turns(smem, turns, block, group, sizes, band):  # what another warp does where additions are ordered
        (j, _, _, begin, end), (_, _, Nq, Nk, _, _), arrives = block, sizes, elect() != 0
        for n in range(int32(group * (end - begin))):
            (over, i), (barrier, parity) = query_block(n, block), barriers_of_turn(smem, n)
            before, _ = key_blocks(i, Br, Bc, Nq, Nk, band[0], band[1])
            mbarrier_wait(barrier + TURN_FREE, parity ^ 1)
            await_turn(turns, place_of_turn(over, i, block, group, sizes), int32(j - before))
            if arrives:
                mbarrier_arrive(barrier + TURN_COMES)

    @device
    def end_turns(smem, turns, block, group, sizes):  # and a third one, since that takes time as well
        (_, _, _, begin, end), ends = block, elect() != 0
        for n in range(int32(group * (end - begin))):
            (over, i), (barrier, parity) = query_block(n, block), barriers_of_turn(smem, n)
            mbarrier_wait(barrier + TURN_ENDS, parity)
            if ends:
                mbarrier_arrive(barrier + TURN_FREE)
            end_turn(turns, place_of_turn(over, i, block, group, sizes), ends)

    @device
    def free(smem, n):  # a stage may be written again
        stage, _ = stage_of(n)
        if lane() == 0:
            mbarrier_arrive(smem + FREE + BARRIER_BYTES * stage)
        cuda.syncwarp()  # its lanes go on together

    @device
    def write_scores(words, at, place, x):  # this warpgroup's part of P or dS, of which so many panels are a buffer
        kg, qg = place
        top = at // ROW_BYTES + kg * WARPGROUP_ROWS
        for panel in range(cdiv(QUERIES, PANEL)):
            write_panel(words, top + panel * Bc, qg * (QUERIES // 8), x, panel)

    @device
    def all_written():  # by all warpgroups that compute, and for products to see
        fence_shared()
        barrier_sync(ALL, WARPGROUP * CONSUMERS)  # P and dS are written before others multiply by them

    @device
    def start_scores(state, smem, n, mine):  # lines 10 and 13: S^T = Kj Qi^T, dP^T = Vj dOi^T
        s, dp, (kg, qg), (stage, parity) = state[0], state[1], mine, stage_of(n)
        keys, queries = kg * WARPGROUP_ROWS * ROW_BYTES, qg * QUERIES * ROW_BYTES
        mbarrier_wait(smem + Q_FULL + BARRIER_BYTES * stage, parity)
        wgmma_fence()
        issue_s(s, smem + keys, smem + Q_AT + stage * Q_BYTES + queries)
        mbarrier_wait(smem + O_FULL + BARRIER_BYTES * stage, parity)
        issue_dp(dp, smem + V_AT + keys, smem + O_AT + stage * O_BYTES + queries)

    @device
    def start_dq(dq, smem, dS, mine):  # line 15: dQi = dS Kj, this warpgroup's rows and columns
        me = mine[0] * QG + mine[1]
        block, column = me % DQ_BLOCKS, me // DQ_BLOCKS * DQ_COLUMNS
        wgmma_fence()
        issue_dq(dq, dS + block * S_PANEL, smem + column // PANEL * KV_PANEL + column % PANEL * 2)

    @device
    def add_in_turn(smem, n, sums, dq):  # line 15: dQi, this warp's rows and columns
        if ordered:
            barrier, parity = barriers_of_turn(smem, n)
            mbarrier_wait(barrier + TURN_COMES, parity)
        add_dq(sums, 0, dq)
        if ordered:
            cuda.syncwarp()  # all lanes have added
            if lane() == 0:
                mbarrier_arrive(barrier + TURN_ENDS)
            cuda.syncwarp()  # they go on together

    @device
    def sum_own(state, smem, n, mine, sums, words):
        """Lines 15 and 16, where a warpgroup has P and dS of all queries; line 12, dV from registers, is on its way."""
        _, dp, _, dk, dv_, dq = state
        (kg, _), (stage, _), dS = mine, stage_of(n), S_AT + int32(n & 1) * S_BYTES
        write_scores(words, dS, mine, dp)
        all_written()
        start_dq(dq, smem, smem + dS, mine)
        issue_dk(dk, smem + dS + kg * WARPGROUP_ROWS * ROW_BYTES, smem + Q_AT + stage * Q_BYTES)
        wgmma_wait(1)
        pin(dv_, DV_)
        pin(dq, DQ)
        add_in_turn(smem, n, sums, dq)
        wgmma_wait(0)
        pin(dk, DK)
        free(smem, n)

    @device
    def sum_direct(state, smem, n, mine, sums, words):
        """The same, line 16 first: dK from dS in registers, before the dS of others is there."""
        _, dp, _, dk, dv_, dq = state
        (stage, _), dS, ds = stage_of(n), S_AT + int32(n & 1) * S_BYTES, cuda.local.array(P, uint32)
        round_to(ds, dp)
        wgmma_fence()
        own_dk(dk, ds, smem + Q_AT + stage * Q_BYTES)
        write_scores(words, dS, mine, dp)
        all_written()
        start_dq(dq, smem, smem + dS, mine)
        wgmma_wait(1)
        pin(dv_, DV_)
        pin(dk, DK)
        free(smem, n)
        wgmma_wait(0)
        pin(dq, DQ)
        add_in_turn(smem, n, sums, dq)

    @device
    def sum_shared(state, smem, n, mine, sums, words):
        """Lines 12, 15 and 16, where a warpgroup has P and dS of some queries, and sums up some columns."""
        s, dp, _, dk, dv_, dq = state
        (kg, qg), (stage, _), buffer = mine, stage_of(n), int32(n & 1) * S_BYTES
        keys = smem + buffer + kg * WARPGROUP_ROWS * ROW_BYTES
        write_scores(words, P_AT + buffer, mine, s)
        write_scores(words, S_AT + buffer, mine, dp)
        all_written()
        start_dq(dq, smem, smem + S_AT + buffer, mine)
        issue_dv(dv_, keys + P_AT, smem + O_AT + stage * O_BYTES + qg * (DV_COLUMNS // PANEL) * Q_PANEL)
        issue_dk(dk, keys + S_AT, smem + Q_AT + stage * Q_BYTES + qg * (DK_COLUMNS // PANEL) * Q_PANEL)
        wgmma_wait(2)
        pin(dq, DQ)
        add_in_turn(smem, n, sums, dq)
        wgmma_wait(0)
        pin(dv_, DV_)
        pin(dk, DK)
        free(smem, n)

    sum_up = sum_shared if SHARED else sum_direct if tiles.direct else sum_own

    @device
    def meet(state, smem, n, i, j, mine, sums, scoring):
        """Algorithm 2, lines 8 to 16, of one query block: number n of the block's life, number i of its head."""
        s, dp, p, _, dv_, _ = state
        (kg, qg), (sizes, band, factors, views, (b, h)) = mine, scoring
        (_, _, Nq, Nk, _, _), (first, last, q_offset), (scale, softcap, slope) = sizes, band, factors
        bias, bias_strides, mask, mask_strides = views
        lse, delta = cuda.local.array(LINES, float32), cuda.local.array(LINES, float32)
        derivative = cuda.local.array(SCORES, float32)
        stage, _ = stage_of(n)
        top = stage * (ROWS_BYTES // ROW_BYTES) + qg * QUERIES // ROWS_TOGETHER
        row0, col0, rg, cg = i * Br + qg * QUERIES, j * Bc, lane() % 4, kg * WARPGROUP_ROWS + row_of_thread()
        rows, words = shared_tile(ROWS_AT, ROWS_SHAPE, float32), shared_tile(0, WORDS_SHAPE, uint32)
        edge = not all_visible(i * Br, col0, Br, Bc, Nk, first, last)
        start_scores(state, smem, n, mine)
        wgmma_wait(1)
        pin(s, SCORES)
        if MODIFIES:
            modify(
                s, derivative, rg, cg, row0, col0, Nq, Nk, scale, softcap, slope, q_offset, bias, bias_strides, mask,
                mask_strides, b, h,
            )  # fmt: skip
        read_rows(lse, delta, rows, top)
        probabilities(s, LOG2_E if MODIFIES else scale * LOG2_E, lse)  # line 11
        if edge:
            hide(s, s, rg, cg, row0, col0, Nk, first, last)
        if SHARED:
            wgmma_wait(0)
        else:
            round_to(p, s)
            wgmma_fence()
            own_dv(dv_, p, smem + O_AT + stage * O_BYTES)  # line 12: dVj += P^T dOi
            wgmma_wait(1)
        pin(dp, SCORES)
        read_rows(lse, delta, rows, top)
        score_gradients(dp, s, derivative, delta)  # line 14: dS
        if edge:
            hide(dp, dp, rg, cg, row0, col0, Nk, first, last)
        sum_up(state, smem, n, mine, sums, words)

    @device
    def compute(me, smem, maps, dQ, dK, dV, block, group, sizes, band, scale, softcap, options):
        """What a warpgroup does that computes."""
        Hq, Hk, Nq, Nk, d, dv = sizes
        (j, hk, b, begin, end), Tr = block, int32(cdiv(Nq, Br))
        bias, bias_strides, mask, mask_strides, slopes, slopes_strides = options
        mine, n = (me // QG, me % QG), int32(0)
        s, dp = cuda.local.array(SCORES, float32), cuda.local.array(SCORES, float32)
        p = cuda.local.array(P, uint32)
        dk, dv_, dq = cuda.local.array(DK, float32), cuda.local.array(DV_, float32), cuda.local.array(DQ, float32)
        fill(s, SCORES, ZERO)
        fill(dp, SCORES, ZERO)
        fill(dq, DQ, ZERO)
        fill(dk, DK, ZERO)
        fill(dv_, DV_, ZERO)
        if begin < end:
            mbarrier_wait(smem + K_FULL, 0)
            mbarrier_wait(smem + V_FULL, 0)
        for h in range(int32(hk * group), int32((hk + 1) * group)):  # GQA: every query head that reads this KV head
            first_sum = (b * Hq + h) * Tr
            bias_h = global_view(bias, head(bias_strides, b, h), BIAS)
            mask_h = global_view(mask, head(mask_strides, b, h), uint8)
            slope = slope_of(global_view(slopes, head(slopes_strides, b, h), SLOPE), 0)
            scoring = sizes, band, (scale, softcap, slope), (bias_h, bias_strides, mask_h, mask_strides), (b, h)
            for left in range(end - begin, 0, -1):
                i = int32(begin + left - 1)
                sums = global_view(dQ, (first_sum + i) * (Br * D), float32)
                meet((s, dp, p, dk, dv_, dq), smem, n, i, j, mine, sums, scoring)
                n = int32(n + 1)
        for x in range(DK):
            dk[x] *= scale
        if boxed:
            store(smem, maps, dk, dv_, j, mine, (hk, b))
        else:
            bh, row = b * Hk + hk, j * Bc + mine[0] * WARPGROUP_ROWS + row_of_thread() - lane() // 4
            write_dk(global_view(dK, bh * Nk * d, uint16), d, dk, row, mine[1] * DK_COLUMNS, Nk, d)
            write_dv(global_view(dV, bh * Nk * dv, uint16), dv, dv_, row, mine[1] * DV_COLUMNS, Nk, dv)

    @device
    def store(smem, maps, dk, dv_, j, mine, matrix):  # by way of the place of Kj and Vj
        kg, qg = mine
        words, own = shared_tile(0, WORDS_SHAPE, uint32), OWN + kg * QG + qg
        top, row = kg * WARPGROUP_ROWS, j * Bc + kg * WARPGROUP_ROWS
        k_top, v_top = top + qg * (DK_COLUMNS // PANEL) * Bc, top + qg * (DV_COLUMNS // PANEL) * Bc + V_AT // ROW_BYTES
        barrier_sync(ALL, WARPGROUP * CONSUMERS)  # nobody multiplies by Kj and Vj any more
        if cuda.threadIdx.x % WARPGROUP == 0:
            acquire_map(maps, DK_MAP * MAP_WORDS)
            acquire_map(maps, DV_MAP * MAP_WORDS)
        store_dk(words, k_top, smem + k_top * ROW_BYTES, dk, maps, DK_MAP, row, qg * DK_COLUMNS, matrix, own)
        store_dv(words, v_top, smem + v_top * ROW_BYTES, dv_, maps, DV_MAP, row, qg * DV_COLUMNS, matrix, own)
        if cuda.threadIdx.x % WARPGROUP == 0:
            wait_stores(0)

    def flash3_backward(
        dO, dO_words, Q, Q_words, K, K_words, V, V_words, rows, rows_words, dQ, turns, dK, dK_words, dV, dV_words,
        maps, bias, bias_strides, mask, mask_strides, slopes, slopes_strides, sizes, band, scale, softcap, one,
        together,
    ):  # fmt: skip
        Hq, Hk, Nq, Nk, _, _ = sizes
        tid, role, smem = cuda.threadIdx.x, warpgroup(), shared_address(0)
        maps = global_view(maps, cuda.blockIdx.x * MAPS * MAP_WORDS, uint64)
        if tid == 0:
            write_map(maps, Q_MAP, Q_words, Q)
            write_map(maps, K_MAP, K_words, K)
            write_map(maps, V_MAP, V_words, V)
            write_map(maps, O_MAP, dO_words, dO)
            write_map(maps, ROWS_MAP, rows_words, rows)
            if boxed:
                write_map(maps, DK_MAP, dK_words, dK)
                write_map(maps, DV_MAP, dV_words, dV)
            release_maps()
            init_mbarriers(smem + K_FULL, 2, 1)
            init_mbarriers(smem + Q_FULL, 2 * STAGES, 1)  # and O_FULL
            init_mbarriers(smem + FREE, STAGES, CONSUMERS * WARPS)
            if ordered:
                init_mbarriers(smem + TURN_COMES, 2, 1)
                init_mbarriers(smem + TURN_ENDS, 2, CONSUMERS * WARPS)
                init_mbarriers(smem + TURN_FREE, 2, 1)
            publish_mbarriers()
        cuda.syncthreads()  # maps and barriers exist before anyone uses them
        Tc = int32(cdiv(Nk, Bc))
        heads = int32(quotient(cuda.gridDim.x, Tc))
        behind, bh = longest_first(number_of_block(turns), Tc, heads, int32(together))
        j, bh = int32(Tc - 1 - behind), int32(bh)  # causal: the first keys meet most rows
        b = int32(quotient(bh, Hk))
        hk, group = int32(bh - b * Hk), int32(quotient(Hq, Hk))
        begin, end = query_blocks(j, Br, Bc, Nq, Nk, band[0], band[1])
        block = j, hk, b, int32(begin), int32(end)
        if role == 0:
            give_registers(FEW)
            if warp() == 0:
                for n in range(READ_MAPS):
                    acquire_map(maps, n * MAP_WORDS)
                copy_tiles(smem, maps, block, group)
            if ordered and warp() == 1:
                await_turns(smem, global_view(turns, 0, int32), block, group, sizes, band)
            if ordered and warp() == 2:
                end_turns(smem, global_view(turns, 0, int32), block, group, sizes)
        else:
            take_registers(MANY)
            options = bias, bias_strides, mask, mask_strides, slopes, slopes_strides
            compute(role - 1, smem, maps, dQ, dK, dV, block, group, sizes, band, scale, softcap, options)

    return flash3_backward
