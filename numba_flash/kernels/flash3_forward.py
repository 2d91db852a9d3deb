"""FlashAttention-3 forward.        New here: while one warpgroup multiplies, the other takes exponentials.

Paper      Shah et al. 2024, arXiv:2407.08608: Algorithm 2, with the ping-pong and the overlap of its section 3.2
Grid       as many blocks as multiprocessors, each of which does one query block after another, longest first: the next
           one not taken (`by_counter`), or every so many; a tile holds the few queries of heads that share keys
           (`packed`). Threads 128: one warp starts all copies, then 128 for every 64 of Br query rows
Shapes     Q (B, Hq, Nq, d), K (B, Hk, Nk, d), V (B, Hk, Nk, dv), rows on 16 bytes -> O (B, Hq, Nq, dv), LSE (B, Hq, Nq)
On chip    | slots x (Qi Br x D, then Oi) | stages x Kj Bc x D | stages x Vj Bc x DV | barriers | slots x task |
           16 bits, rows of 128 bytes; a task: which query block, and which key blocks it meets
           s, acc in accumulator fragments of 64 rows a warpgroup, p in fragments of 16 x 16, m, l, alpha   registers
Invariant  after block j: acc = sum of e^(s-m) v, l = sum of e^(s-m) over the keys seen so far, but for acc that P V of
           block j is still to be added; m lies below max s by no more than log(2^8), so that acc, where it seldom
           changes, is seldom rescaled
           Kj, Vj, Qi are FULL when their copy has landed, FREE when every warp has read them; by turns
Timeline   copies        K0 Q V0 K1 V1 : K2, when all have read K0 : V2, when all have read V0 : ...
           warpgroup 1   :S0: P0      :S1,P0 V0: P1 while P0 V0  :S2,P1 V1: P2 while P1 V1  : ...
           warpgroup 2   :S0: P0            :S1,P0 V0: P1 while P0 V0  :S2,P1 V1: P2 ...    : products start by turns
Units      LSE in nats; s too, or products as they come where the scale is `folded` into `unit`; m in base 2
           P rounded to 16 bits for its product alone
Edges      key blocks with hidden pairs come first, blocks outside the band are skipped; a query block that meets no key
           gets one of zeros; a row that sees no key: O = 0, LSE = -inf
Traffic    reads Q once, K and V once for each of Tr query blocks that sees them; writes O and LSE once: `traffic`
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
    TASK_NUMBERS,
    WARPGROUP,
    WARPGROUP_ROWS,
    WARPS,
    Fragments,
    Stores,
    WarpgroupTiles,
)
from numba_flash.device.boxes import init_mbarriers, make_load_panels, make_store_rows, row_of_thread, write_map
from numba_flash.device.fragments import lane, make_round, make_write_fragments
from numba_flash.device.number import number
from numba_flash.device.scores import make_hide_here, make_modify, make_slope
from numba_flash.device.softmax import ALL_LANES, make_finish, make_online_softmax, make_rescale
from numba_flash.device.tiles import fill, head
from numba_flash.device.warpgroups import from_lane, make_issue, make_issue_registers, warp, warpgroup
from numba_flash.problem import ScoreOptions
from numba_flash.ptx import (
    acquire_map,
    await_number,
    barrier_arrive,
    barrier_sync,
    device,
    elect,
    fetch_add,
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
    store4,
    take_registers,
    wait_stores,
    wgmma_fence,
    wgmma_wait,
)
from numba_flash.tiling import block_around, cdiv, key_blocks_around, longest_first, quotient


@cache
def make_flash3_forward(
    tiles: WarpgroupTiles, dtype: str, stores: Stores, score: ScoreOptions, folded: bool, packed: int, counted: bool
):
    """The kernel for tile sizes, dtype, kind of stores (of chunks: in boxes), score options and query heads of a tile.

    folded : as in `folds_scale`
    counted : blocks take query blocks by a counter
    """
    Br, Bc, D, DV, STAGES, SLOTS = tiles.Br, tiles.Bc, tiles.D, tiles.DV, tiles.stages, tiles.queries
    QUERIES, OF_A_GROUP = Br // packed, WARPGROUP_ROWS // packed
    CONSUMERS, PING_PONG, (FEW, MANY) = tiles.consumers, tiles.consumers > 1, tiles.registers
    scores, out = Fragments(Br // 2, 2, Bc // 4), Fragments(Br // 2, 2, DV // 4)
    SCORES, OUT, P = scores.size, out.size, scores.size // 2
    Q_PANELS, V_PANELS, Q_PANEL, KV_PANEL = cdiv(D, PANEL), cdiv(DV, PANEL), Br * ROW_BYTES, Bc * ROW_BYTES
    Q_BYTES, K_BYTES, V_BYTES = Q_PANELS * Q_PANEL, Q_PANELS * KV_PANEL, V_PANELS * KV_PANEL
    SLOT_ROWS = max(Q_PANELS, V_PANELS) * Br
    SLOT_BYTES = SLOT_ROWS * ROW_BYTES
    K_AT = SLOTS * SLOT_BYTES
    V_AT = K_AT + STAGES * K_BYTES
    K_FULL = V_AT + STAGES * V_BYTES
    K_FREE, V_FULL, V_FREE, Q_FULL = (K_FULL + BARRIER_BYTES * STAGES * n for n in (1, 2, 3, 4))
    Q_FREE, TASKS_AT = (Q_FULL + BARRIER_BYTES * SLOTS * n for n in (1, 2))
    TASKS, NUMBERS, COUNT = (SLOTS, TASK_NUMBERS), TASK_NUMBERS, 3
    O_SHAPE, BOXED = (SLOTS * SLOT_ROWS, ROW_BYTES // 4), stores == "chunks"
    Q_MAP, K_MAP, V_MAP, O_MAP, MAPS = 0, 1, 2, 3, 3 + BOXED
    TURN, OWN = 1, 1 + CONSUMERS  # the first of the named barriers by which warpgroups take turns, and of their own
    numbers = number(dtype)
    ZERO, ONE, NEG_INF, NAT = numbers.zero, numbers.one, numbers.neg_inf, numbers.nat
    BIAS, SLOPE = number(score.bias or dtype).stored, number(score.alibi or dtype).stored

    load_q, load_k = (make_load_panels(rows, D, False) for rows in (Br, Bc))
    load_v = make_load_panels(DV, Bc, True)
    issue_qk = make_issue(dtype, Bc, D, Q_PANEL, KV_PANEL, fresh=True)
    issue_pv = make_issue_registers(dtype, DV, Bc, KV_PANEL)
    modify, hide_here = make_modify(scores, score, dtype), make_hide_here(scores, dtype, packed)
    slope_of = make_slope(score, dtype)
    online_softmax = make_online_softmax(scores, dtype, tiles.multiplied, lazy=True)
    round_to, rescale, finish = make_round(dtype, scores), make_rescale(out), make_finish(out, dtype, packed)
    store_rows = make_store_rows(dtype, DV, Br)
    write_o = make_write_fragments(dtype, 16, DV, stores != "elements")

    @device
    def turn(n, places):  # of number n of what takes so many places by turns: its place, and the parity of its phase
        n = uint32(n)  # that cannot be negative: a division of few instructions
        return uint32(n % places), uint32(n // places & 1)

    @device
    def in_order(work, counter):  # the number of the query block to do next: every so many
        return int32(work + cuda.gridDim.x)

    @device
    def by_counter(work, counter):  # or the next that nobody has taken
        ticket = int32(0)
        if lane() == 0:
            ticket = fetch_add(counter, 0, 1)
        return int32(cuda.gridDim.x + from_lane(ticket, 0))

    following = by_counter if counted else in_order

    @device
    def task_of(work, sizes, band, heads, together):
        """A query block, its head (or group of heads), its batch entry; how many key blocks, edges, and their order.

        Where it meets no key, a block of zeros behind the last one. No key blocks: there is nothing more to do.
        """
        Hq, _, Nq, Nk, _, _ = sizes
        Tr, H = int32(cdiv(Nq, QUERIES)), int32(Hq // packed)
        i, bh, count, edges, right, begin, end = 0, 0, 0, 0, 0, 0, 0
        if work < Tr * heads:
            i, bh = longest_first(work, Tr, int32(heads), int32(together))
            count, edges, (right, begin, end) = key_blocks_around(i, QUERIES, Bc, Nq, Nk, band[0], band[1])
            if count == 0:
                beyond = cdiv(max(Nk, 1), Bc)
                count, edges, right, begin, end = 1, 1, 1, beyond, beyond + 1
        b = quotient(bh, H)
        where = int32(i), int32(bh - b * H), int32(b)
        return where, (int32(count), int32(edges), int32(right), int32(begin), int32(end))

    @device
    def copy_tiles(smem, maps, counter, sizes, band, heads, together):  # what the warp does that only copies
        Hq, Hk, _, _, _, _ = sizes
        tasks, copies = shared_tile(TASKS_AT, TASKS, int32), elect() != 0
        work, group, n, tile = int32(cuda.blockIdx.x), quotient(Hq // packed, Hk), int32(0), int32(0)
        (i, h, b), (count, edges, right, begin, end) = task_of(work, sizes, band, heads, together)
        while count > 0:
            slot, phase = turn(tile, SLOTS)
            rows, keys = (int32(i * QUERIES), h, b), (int32(quotient(h, group)), b)
            blocks, order = count, (right, begin, end)
            for x in range(blocks):
                (stage, parity), first = turn(n, STAGES), int32(block_around(x, *order) * Bc)
                full = smem + K_FULL + BARRIER_BYTES * stage
                mbarrier_wait(smem + K_FREE + BARRIER_BYTES * stage, parity ^ 1)
                if copies:
                    mbarrier_expect(full, K_BYTES)
                    load_k(smem + K_AT + stage * K_BYTES, maps, K_MAP, first, 0, keys, full)
                if x == 0:
                    full = smem + Q_FULL + BARRIER_BYTES * slot
                    mbarrier_wait(smem + Q_FREE + BARRIER_BYTES * slot, phase ^ 1)
                    if copies:
                        store4(tasks, (slot, 0), (i, h, b, count))
                        store4(tasks, (slot, 4), (edges, right, begin, end))
                        mbarrier_expect(full, Q_BYTES)
                        load_q(smem + slot * SLOT_BYTES, maps, Q_MAP, 0, 0, rows, full)
                full = smem + V_FULL + BARRIER_BYTES * stage
                mbarrier_wait(smem + V_FREE + BARRIER_BYTES * stage, parity ^ 1)
                if copies:
                    mbarrier_expect(full, V_BYTES)
                    load_v(smem + V_AT + stage * V_BYTES, maps, V_MAP, 0, first, keys, full)
                n = int32(n + 1)
                if x == max(blocks - 2, 0):  # in time for the copies, and so late that all blocks end together
                    work = following(work, counter)
                    (i, h, b), (count, edges, right, begin, end) = task_of(work, sizes, band, heads, together)
            tile = int32(tile + 1)
        slot, phase = turn(tile, SLOTS)
        mbarrier_wait(smem + Q_FREE + BARRIER_BYTES * slot, phase ^ 1)
        if copies:
            tasks[slot, COUNT] = 0
            mbarrier_arrive(smem + Q_FULL + BARRIER_BYTES * slot)

    @device
    def await_task(smem, tile):  # of this number in the block's life; all lanes have the same, and the compiler knows
        slot, phase = turn(tile, SLOTS)
        mbarrier_wait(smem + Q_FULL + BARRIER_BYTES * slot, phase)
        mine = shared_tile(TASKS_AT, TASKS, int32)[slot, lane() % NUMBERS]
        i, h, b, count = from_lane(mine, 0), from_lane(mine, 1), from_lane(mine, 2), from_lane(mine, 3)
        order = from_lane(mine, 5), from_lane(mine, 6), from_lane(mine, 7)
        return (i, h, b), (count, from_lane(mine, 4), order)

    @device
    def await_keys(smem, n):  # the address of Kj, of key block number n in the block's life
        stage, parity = turn(n, STAGES)
        mbarrier_wait(smem + K_FULL + BARRIER_BYTES * stage, parity)
        return opaque(smem + K_AT + stage * K_BYTES)

    @device
    def await_values(smem, n):  # that of Vj
        stage, parity = turn(n, STAGES)
        mbarrier_wait(smem + V_FULL + BARRIER_BYTES * stage, parity)
        return smem + V_AT + stage * V_BYTES

    @device
    def free(first, n):  # lines 4 and 14: a stage may be written again
        stage, _ = turn(n, STAGES)
        if lane() == 0:
            mbarrier_arrive(first + BARRIER_BYTES * stage)
        cuda.syncwarp()  # its lanes go on together

    @device
    def free_rows(smem, slot):  # Qi may be written again, when Oi has left its place
        cuda.syncwarp()  # all lanes have read the task
        if lane() == 0:
            wait_stores(0)
            mbarrier_arrive(smem + Q_FREE + BARRIER_BYTES * slot)

    @device
    def start_scores(s, Qi, Kj):  # lines 7 and 8: S = Qi Kj^T
        wgmma_fence()
        issue_qk(s, opaque(Qi), Kj)

    @device
    def start_sums(acc, p, Vj):  # lines 9 and 10: O = O + P~ Vj
        wgmma_fence()
        issue_pv(acc, p, Vj)

    @device
    def to_scores(s, edge, rows, col0, scoring):  # products become scores
        (rg, cg, row0), (sizes, band, factors, views, (b, h), _) = rows, scoring
        (_, _, Nq, Nk, _, _), (first, last, q_offset) = sizes, band
        if not folded:
            scale, softcap, slope = factors
            bias, bias_strides, mask, mask_strides = views
            derivative = cuda.local.array(SCORES, float32)
            modify(
                s, derivative, rg, cg, row0, col0, Nq, Nk, scale, softcap, slope, q_offset, bias, bias_strides, mask,
                mask_strides, b, h,
            )  # fmt: skip
        if edge:
            ahead = row0 - col0
            hide_here(s, rg, cg, int32(ahead + first), int32(ahead + last), int32(Nk - col0))

    @device
    def follow(state, smem, Qi, me, n, edge, rows, col0, scoring):
        """Algorithm 2, lines 8 to 14: S of a key block and P V of the one before, number n, run behind one another."""
        s, p, acc, m, l, alpha = state
        Kj = await_keys(smem, n + 1)
        if PING_PONG:
            barrier_sync(TURN + me, 2 * WARPGROUP)  # it is this warpgroup's turn to start products
        start_scores(s, Qi, Kj)
        start_sums(acc, p, await_values(smem, n))
        if PING_PONG:
            barrier_arrive(TURN + (me + 1) % CONSUMERS, 2 * WARPGROUP)  # it is the next one's turn
        wgmma_wait(1)
        pin(s, SCORES)
        free(smem + K_FREE, n + 1)
        if edge or CONSUMERS < 3:  # or the compiler moves the arrival behind the softmax: faster only for three
            await_number(s[0])
        to_scores(s, edge, rows, col0, scoring)
        online_softmax(s, m, l, alpha, scoring[-1])  # line 12: m, P~, l, while P V is still computed
        moved = cuda.any_sync(ALL_LANES, alpha[0] != ONE or alpha[1] != ONE)
        await_number(l[0] + l[1])
        wgmma_wait(0)
        pin(acc, OUT)
        free(smem + V_FREE, n)
        if moved:
            rescale(acc, alpha)  # line 13: O = diag(alpha) O
        round_to(p, s)

    @device
    def attend(state, smem, Qi, me, n, before, rows, keys, scoring):
        """Algorithm 2, lines 3 to 18, of one query block and key blocks number n and on; returns the number behind.

        `before`: the slot of the tile before, if that is not free yet.
        """
        (s, p, acc, m, l, alpha), (count, edges, order) = state, keys
        start_scores(s, Qi, await_keys(smem, n))
        fill(m, 2, NEG_INF)
        fill(l, 2, ZERO)
        fill(acc, OUT, ZERO)
        wgmma_wait(0)
        pin(s, SCORES)
        free(smem + K_FREE, n)
        if before >= 0:
            free_rows(smem, before)
        to_scores(s, edges > 0, rows, block_around(0, *order) * Bc, scoring)
        online_softmax(s, m, l, alpha, scoring[-1])
        round_to(p, s)
        for x in range(1, edges):
            follow(state, smem, Qi, me, n, True, rows, block_around(x, *order) * Bc, scoring)
            n = int32(n + 1)
        for x in range(max(edges, 1), count):
            follow(state, smem, Qi, me, n, False, rows, block_around(x, *order) * Bc, scoring)
            n = int32(n + 1)
        start_sums(acc, p, await_values(smem, n))
        wgmma_wait(0)
        pin(acc, OUT)
        free(smem + V_FREE, n)
        return int32(n + 1)

    @device
    def compute(me, smem, maps, O, LSE, sizes, band, scale, softcap, one, options):
        """What a warpgroup does that computes: its rows of every query block of this block."""
        Hq, _, Nq, _, _, dv = sizes
        bias, bias_strides, mask, mask_strides, slopes, slopes_strides = options
        words, mine = shared_tile(0, O_SHAPE, uint32), me * WARPGROUP_ROWS
        rg, cg = int32(mine + row_of_thread()), int32(lane() % 4)
        s, p = cuda.local.array(SCORES, float32), cuda.local.array(P, uint32)
        acc, alpha = cuda.local.array(OUT, float32), cuda.local.array(2, float32)
        m, l = cuda.local.array(2, float32), cuda.local.array(2, float32)
        unit, n, tile, before = (scale if folded else one) * NAT, int32(0), int32(0), int32(-1)
        if BOXED and cuda.threadIdx.x % WARPGROUP == 0:
            acquire_map(maps, O_MAP * MAP_WORDS)
        if PING_PONG and me == CONSUMERS - 1:
            barrier_arrive(TURN, 2 * WARPGROUP)  # the first warpgroup has the first turn
        fill(s, SCORES, ZERO)
        (i, h, b), keys = await_task(smem, tile)
        while keys[0] > 0:
            row0, (slot, _) = i * QUERIES, turn(tile, SLOTS)
            bias_h = global_view(bias, head(bias_strides, b, h), BIAS)
            mask_h = global_view(mask, head(mask_strides, b, h), uint8)
            slope = slope_of(global_view(slopes, head(slopes_strides, b, h), SLOPE), 0)
            views, factors = (bias_h, bias_strides, mask_h, mask_strides), (scale, softcap, slope)
            Qi, scoring = smem + slot * SLOT_BYTES + mine * ROW_BYTES, (sizes, band, factors, views, (b, h), unit)
            n = attend((s, p, acc, m, l, alpha), smem, Qi, me, n, before, (rg, cg, row0), keys, scoring)
            bh = b * Hq + h * packed
            finish(acc, m, l, global_view(LSE, bh * Nq, float32), rg, cg, row0, Nq)  # line 19
            if BOXED:  # by way of the warpgroup's own rows of Qi
                top, matrix = slot * SLOT_ROWS + mine, (row0 + me * OF_A_GROUP, h, b)
                store_rows(words, top, Qi, acc, maps, O_MAP, 0, 0, matrix, OWN + me)
            else:
                write_o(global_view(O, bh * Nq * dv, uint16), dv, acc, row0 + rg - lane() // 4, 0, Nq, dv)
            if SLOTS > 1:
                before = int32(slot)
            else:
                free_rows(smem, slot)
            tile = int32(tile + 1)
            (i, h, b), keys = await_task(smem, tile)
        if BOXED and cuda.threadIdx.x % WARPGROUP == 0:
            wait_stores(0)

    def flash3_forward(
        Q, Q_words, K, K_words, V, V_words, O, O_words, LSE, maps, counter,
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
                init_mbarriers(smem + freed, STAGES, CONSUMERS * WARPS)
            init_mbarriers(smem + Q_FULL, SLOTS, 1)
            init_mbarriers(smem + Q_FREE, SLOTS, CONSUMERS * WARPS)
            publish_mbarriers()
        cuda.syncthreads()  # maps and barriers exist before anyone uses them
        if group == 0:
            give_registers(FEW)
            if warp() == 0:
                acquire_map(maps, Q_MAP * MAP_WORDS)
                acquire_map(maps, K_MAP * MAP_WORDS)
                acquire_map(maps, V_MAP * MAP_WORDS)
                copy_tiles(smem, maps, global_view(counter, 0, int32), sizes, band, heads, together)
        else:
            take_registers(MANY)
            options = bias, bias_strides, mask, mask_strides, slopes, slopes_strides
            compute(group - 1, smem, maps, O, LSE, sizes, band, scale, softcap, one, options)

    return flash3_forward
