"""The order of key blocks: in it they start, and, where bits are to repeat, in it they add to dQ."""

from __future__ import annotations

from functools import cache

from numba import cuda, int32

from numba_flash.device.fragments import lane
from numba_flash.ptx import await_turn, device, end_turn, fetch_add, global_view, shared_tile

TICKET, TURNS = 0, 1  # where in the array of turns the number of blocks that have started is, and the first turn


@cache
def make_number_of_block(ordered: bool, at: int):
    """Make number_of_block(turns): which block of the launch this one is, for all of its threads.

    Where additions are `ordered`, that is the order in which blocks start, by way of byte `at` of shared memory: none
    waits for one that is not there yet.
    """
    if not ordered:

        @device
        def number_as_launched(turns):
            return int32(cuda.blockIdx.x)

        return number_as_launched

    @device
    def number_as_started(turns):
        ticket = shared_tile(at, (1,), int32)
        if cuda.threadIdx.x == 0:
            ticket[0] = fetch_add(global_view(turns, 0, int32), TICKET, 1)
        cuda.syncthreads()  # the number is there before anyone reads it
        return ticket[0]

    return number_as_started


@cache
def make_turns(ordered: bool, warps: int):
    """Make take_turns(turns, ended, next, before, warp) and end_last_turn(turns, ended, warp), which all warps call.

    They do nothing unless additions are `ordered`: then there is a turn for each query block, and so many come `before`
    the block's own. Both follow a barrier behind all additions of the turn that has `ended` (-1: none), and another one
    is between `take_turns` and the next additions. Ending and waiting take long: the first and the last warp do them.
    """

    @device
    def end(turns, ended, warp):
        if warp == 0 and ended >= 0:
            end_turn(turns, ended, lane() == 0)

    @device
    def take_turns(turns, ended, next, before, warp):
        if ordered:
            end(turns, ended, warp)
            if warp == warps - 1:
                await_turn(turns, next, before)

    @device
    def end_last_turn(turns, ended, warp):
        if ordered:
            cuda.syncthreads()  # all have added before the turn ends
            end(turns, ended, warp)

    return take_turns, end_last_turn
