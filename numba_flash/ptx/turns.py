"""Turns that blocks take at something in global memory: each waits until a number says that those before are done."""

from __future__ import annotations

from typing import Any

from numba import types

from numba_flash import simulator
from numba_flash.ptx.codegen import element_pointer, emit_asm, emitted, narrow_pointer

WAIT = """{
.reg .pred early;
.reg .s32 done;
AGAIN:
ld.acquire.gpu.global.s32 done, [$0];
setp.lt.s32 early, done, $1;
@early bra AGAIN;
}"""

END = "{ .reg .pred ends; setp.ne.b32 ends, $1, 0; @ends red.release.gpu.global.add.s32 [$0], 1; }"


def _await_turn(view: Any, at: Any, before: Any) -> Any:
    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = narrow_pointer(builder, element_pointer(context, builder, view, args[0], at, args[1]), 1)
        operands = [(types.uint64, address), (types.int32, context.cast(builder, args[2], before, types.int32))]
        emit_asm(context, builder, WAIT, operands)
        return context.get_dummy_value()

    return types.void(view, at, before), emit


@emitted(_await_turn)
def await_turn(view: Any, at: Any, before: Any) -> None:
    """Wait until as many turns at an int32 of global memory have ended as come `before` this thread's.

    Then it sees what was written in them. Blocks that have not started cannot be waited for: who comes before is
    decided as blocks start.
    """
    simulator.wait_for_number(view, at, before)


def _end_turn(view: Any, at: Any, ends: Any) -> Any:
    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = narrow_pointer(builder, element_pointer(context, builder, view, args[0], at, args[1]), 1)
        flag = context.cast(builder, args[2], ends, types.uint32)
        emit_asm(context, builder, END, [(types.uint64, address), (types.uint32, flag)])
        return context.get_dummy_value()

    return types.void(view, at, ends), emit


@emitted(_end_turn)
def end_turn(view: Any, at: Any, ends: Any) -> None:
    """Add 1 to the int32, if this thread `ends` a turn: who awaits the next one sees what was written before.

    Of a warp one lane does, without a branch, behind `cuda.syncwarp`.
    """
    if ends:
        view[at] = view[at] + 1
