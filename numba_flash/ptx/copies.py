"""Asynchronous copies from global to shared memory, sm_80 and later: a thread starts them and goes on computing."""

from __future__ import annotations

from typing import Any

from numba import types

from numba_flash import simulator
from numba_flash.ptx.codegen import element_pointer, emit_asm, emitted, instruction, narrow_pointer, with_literal

COPY_BYTES = 16  # the most that one copy moves


def _copy(tile: Any, index: Any, view: Any, at: Any, n: Any, exists: Any) -> Any:
    if not (isinstance(n, types.IntegerLiteral) and isinstance(exists, types.Boolean | types.BooleanLiteral)):
        return None
    return _copy_some(tile, index, view, at, n, exists, n.literal_value)


def _copy_some(tile: Any, index: Any, view: Any, at: Any, n: Any, count: Any, elements: int) -> Any:
    """Of n elements, a literal, those that exist: so many for each of `count`, which may be a truth value."""
    itemsize = tile.dtype.bitwidth // 8
    nbytes = n.literal_value * itemsize
    cached = "cg" if nbytes == COPY_BYTES else "ca"  # only whole 16 bytes can go past the first-level cache

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        to = narrow_pointer(builder, element_pointer(context, builder, tile, args[0], index, args[1]), 3)
        source = narrow_pointer(builder, element_pointer(context, builder, view, args[2], at, args[3]), 1)
        some = builder.mul(
            context.cast(builder, args[5], count, types.int32), context.get_constant(types.int32, elements * itemsize)
        )
        operands = [(types.uint32, to), (types.uint64, source), (types.int32, some)]
        emit_asm(context, builder, f"cp.async.{cached}.shared.global [$0], [$1], {nbytes}, $2;", operands)
        return context.get_dummy_value()

    return types.void(tile, index, view, at, n, count), emit


@emitted(_copy)
def copy(tile: Any, index: Any, view: Any, at: Any, n: int, exists: Any) -> None:
    """Start to copy n elements from view[at] on to tile[index] and behind; zeros where `exists` is false.

    n is a literal, n elements are 4, 8 or 16 bytes, and both addresses are multiples of that; where `exists` is false
    nothing is read. The copy belongs to the next group that this thread commits, and nobody may read or write
    tile[index] before `wait_copies` and a barrier.
    """
    simulator.copy_vector(tile, index, view, at, n, n if exists else 0)


def _copy_part(tile: Any, index: Any, view: Any, at: Any, n: Any, count: Any) -> Any:
    if not (isinstance(n, types.IntegerLiteral) and isinstance(count, types.Integer)):
        return None
    return _copy_some(tile, index, view, at, n, count, 1)


@emitted(_copy_part)
def copy_part(tile: Any, index: Any, view: Any, at: Any, n: int, count: Any) -> None:
    """As `copy`, of which only the first `count` elements, 0 to n, exist: zeros take the place of the others."""
    simulator.copy_vector(tile, index, view, at, n, count)


@instruction("cp.async.commit_group;", memory=True)
def commit_copies() -> None:
    """Close the group of the copies that this thread started since the last commit; it may be empty."""
    simulator.current().copies.commit()


@emitted(with_literal("cp.async.wait_group NUMBER;"))
def wait_copies(pending: int) -> None:
    """Wait until at most the `pending` (a literal) youngest groups of this thread's copies are still in flight."""
    simulator.current().copies.wait(pending)
