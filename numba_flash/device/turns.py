"""Which key block a block takes; and turns, by which key blocks add to dQ in a fixed order where bits are to repeat."""

from __future__ import annotations

from functools import cache

from numba import cuda, int32

from numba_flash.device.fragments import lane
from numba_flash.ptx import await_turn, device, end_turn, fetch_add, global_view, shared_tile

STARTED, TURNS = 0, 1  # where in the array of turns it says how many blocks have started, and where turns begin


@cache
def make_number_of_block(ordered: bool, at: int):
    """Make number_of_block(turns): which block of the launch this one is, for all of its threads.

    Where additions are `ordered`, blocks are numbered as they start, by way of byte `at` of shared memory: so that none
    waits for one that is not there yet.
    """
    if not ordered:

        @device
        def number_as_launched(turns):
            return int32(cuda.blockIdx.x)

        return number_as_launched

    @device
    def number_as_started(turns):
        number = shared_tile(at, (1,), int32)
        if cuda.threadIdx.x == 0:
            number[0] = fetch_add(global_view(turns, 0, int32), STARTED, 1)
        cuda.syncthreads()  # the number is there before anyone reads it
        return number[0]

    return number_as_started


@cache
def make_turns(ordered: bool, warps: int):
    """Make take_turns(turns, ended, turn, before, warp) and end_last_turn(turns, ended, warp), which all warps call.

    They do nothing unless additions are `ordered`: then key blocks take turns at each query block. The next one's place
    is `turn`, and so many key blocks come `before` this one there. Both follow a barrier behind all additions of the
    turn that has `ended` (-1: none), and another one is between `take_turns` and the next additions. Ending and waiting
    take long: the first and the last warp do them.
    """

    @device
    def end(turns, ended, warp):
        if warp == 0 and ended >= 0:
            end_turn(turns, ended, lane() == 0)

    @device
    def take_turns(turns, ended, turn, before, warp):
        if ordered:
            end(turns, ended, warp)
            if warp == warps - 1:
                await_turn(turns, turn, before)

    @device
    def end_last_turn(turns, ended, warp):
        if ordered:
            cuda.syncthreads()  # all have added before the turn ends
            end(turns, ended, warp)

    return take_turns, end_last_turn
