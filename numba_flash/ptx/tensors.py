"""Tensor copies, sm_90: one thread starts the copy of a whole box between global and shared memory.

A box is a rectangle of a tensor of up to five axes, the fastest first. In shared memory its rows, of 128 bytes each,
lie one behind the other with their 16-byte chunks swizzled, so the box starts on a multiple of 1024 bytes. Elements
beyond the tensor are read as zeros and not written.

How a tensor lies in memory and how large the box is, is told by a map: 16 words of global memory, in a view of uint64,
from maps[at] on, `at` a multiple of 16. The host gives a kernel the words but for the tensor's address
(`runtime.tensor_map`); a thread writes them, then `map_address`, `release_maps`, and before it uses them `acquire_map`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types

from numba_flash import simulator
from numba_flash.ptx.codegen import element_pointer, emit_asm, emitted, instruction, narrow_pointer, with_literal


def _map_instruction(text: str, *values: Any) -> Callable[..., Any]:
    """Of a map, then operands of these types."""

    def typing(maps: Any, at: Any, *given: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            where = narrow_pointer(builder, element_pointer(context, builder, maps, args[0], at, args[1]), 1)
            operands = [(types.uint64, where)]
            for value, have, want in zip(args[2:], given, values, strict=True):
                operands.append((want, context.cast(builder, value, have, want)))
            emit_asm(context, builder, text, operands)
            return context.get_dummy_value()

        return types.void(maps, at, *given), emit

    return typing


@emitted(_map_instruction("tensormap.replace.tile.global_address.global.b1024.b64 [$0], $1;", types.uint64))
def map_address(maps: Any, at: Any, pointer: Any) -> None:
    """Write the address of a tensor into a map."""
    simulator.tensor_copies.set_address(maps, at, pointer)


@instruction("fence.proxy.tensormap::generic.release.gpu;", memory=True)
def release_maps() -> None:
    """Let whoever acquires them see the maps that this thread has written."""
    simulator.tensor_copies.release_maps()


@emitted(_map_instruction("fence.proxy.tensormap::generic.acquire.gpu [$0], 128;"))
def acquire_map(maps: Any, at: Any) -> None:
    """Let the copies that this thread starts use a map that has been released."""
    simulator.tensor_copies.acquire_map(maps, at)


ELECT = "{ .reg .pred mine; elect.sync _|mine, 0xffffffff; selp.u32 $0, 1, 0, mine; }"


@instruction(ELECT, writes=[types.uint32], convergent=True)
def elect() -> Any:
    """1 for one lane of the warp, 0 for the others, who all ask together; whoever copies for a warp.

    Where a whole warp gets to a copy that its elected lane starts, the compiler computes for the warp what it is given.
    """
    simulator.warp.all_sync(0xFFFFFFFF, True)
    return int(simulator.current().lane == 0)


def _box(text: str) -> Callable[..., Any]:
    """Of a box: shared address, map, place in it, coordinates, and if the statement has one, a barrier."""

    def typing(address: Any, maps: Any, at: Any, corner: Any, *barrier: Any) -> Any:
        rank = len(corner)
        numbers = ", ".join(f"${n}" for n in range(2, 2 + rank))
        statement = text.replace("RANK", f"{rank}d").replace("BOX", f"[$1, {{{numbers}}}]")
        statement = statement.replace("BARRIER", f"${2 + rank}")

        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            from numba.cuda import cgutils

            where = narrow_pointer(builder, element_pointer(context, builder, maps, args[1], at, args[2]), 1)
            coordinates = cgutils.unpack_tuple(builder, args[3], rank)
            operands = [(types.uint32, context.cast(builder, args[0], address, types.uint32)), (types.uint64, where)]
            for coordinate, have in zip(coordinates, corner.types, strict=True):
                operands.append((types.int32, context.cast(builder, coordinate, have, types.int32)))
            for given, have in zip(args[4:], barrier, strict=True):
                operands.append((types.uint32, context.cast(builder, given, have, types.uint32)))
            emit_asm(context, builder, statement, operands)
            return context.get_dummy_value()

        return types.void(address, maps, at, corner, *barrier), emit

    return typing


LOAD = "cp.async.bulk.tensor.RANK.shared::cluster.global.mbarrier::complete_tx::bytes [$0], BOX, [BARRIER];"
STORE = "cp.async.bulk.tensor.RANK.global.shared::cta.bulk_group BOX, [$0];"
ADD = "cp.reduce.async.bulk.tensor.RANK.global.shared::cta.add.tile.bulk_group BOX, [$0];"


@emitted(_box(LOAD))
def load_box(address: Any, maps: Any, at: Any, corner: Any, barrier: Any) -> None:
    """Start to copy the box whose first element is `corner`, a tuple, to shared memory, and report to a barrier.

    Whoever waits for the barrier, which was told to expect all bytes of the box, sees them.
    """
    simulator.tensor_copies.load_box(address, maps, at, corner, barrier)


@emitted(_box(STORE))
def store_box(address: Any, maps: Any, at: Any, corner: Any) -> None:
    """Start to copy a box from shared memory to the tensor; for `commit_stores` and `wait_stores`.

    No coordinate may be below 0: where they may, `load_box` reads zeros.
    """
    simulator.tensor_copies.store_box(maps, at, corner, address, add=False)


@emitted(_box(ADD))
def add_box(address: Any, maps: Any, at: Any, corner: Any) -> None:
    """As `store_box`, adding to the tensor's elements, float32, which others may add to at the same time."""
    simulator.tensor_copies.store_box(maps, at, corner, address, add=True)


@instruction("cp.async.bulk.commit_group;", memory=True)
def commit_stores() -> None:
    """Close the group of the boxes that this thread has stored since the last commit."""
    simulator.current().stores.commit()


@emitted(with_literal("cp.async.bulk.wait_group.read NUMBER;"))
def wait_stores(pending: int) -> None:
    """Wait until shared memory has been read by all but the `pending` (a literal) youngest groups of this thread.

    The kernel's end waits for the rest of their way.
    """
    simulator.current().stores.wait(pending)


@instruction("fence.proxy.async.shared::cta;", memory=True)
def fence_shared() -> None:
    """Let tensor copies and warpgroup products see what this thread has written to shared memory by itself."""
    simulator.fence_shared()
