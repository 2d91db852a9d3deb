"""score_mod and mask_mod on a CPU: each is compiled alone, for a tile of scores, and a pass calls it by its address.

So a new mod costs one small compilation, and the passes none. A tile is S (height, width), C-contiguous: element (x, y)
is query i0 + y and key j0 + x, or if `rows` are queries, i0 + x and j0 + y. Elements beyond the last query or key meet
these in their place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, from_dtype, types
from numba.extending import intrinsic

from numba_flash.cpu.compiling import inner
from numba_flash.mods import Mod

INTEGERS = ("height", "width", "b", "h", "i0", "j0", "last_i", "last_j", "rows")


class Place(NamedTuple):
    """Where a tile lies, as its function takes it."""

    b: Any
    h: Any
    i0: Any
    j0: Any
    last_i: Any
    last_j: Any
    rows: Any  # of the tile are queries, not keys


@intrinsic
def call_tile(typing: Any, address: Any, s: Any, derivative: Any, place: Any) -> Any:
    """Call the tile function at an address."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        made = [context.make_array(t)(context, builder, x) for t, x in zip(sig.args[1:3], args[1:3], strict=True)]
        shape = [builder.extract_value(made[0].shape, n) for n in range(2)]
        numbers = [*shape, *(builder.extract_value(args[3], n) for n in range(len(Place._fields)))]
        pointers = [x.data for x in made]
        signature = ir.FunctionType(ir.VoidType(), [x.type for x in (*pointers, *numbers)])
        builder.call(builder.inttoptr(args[0], signature.as_pointer()), [*pointers, *numbers])
        return context.get_dummy_value()

    return types.void(types.int64, s, derivative, types.NamedUniTuple(types.int64, len(Place._fields), Place)), emit


def address_of(mod: Mod | None, dtype: np.dtype[Any], differentiated: bool = False) -> int:
    """The address of a mod's tile function; 0 for none."""
    return 0 if mod is None else tile_function(mod, dtype, differentiated).address


@cache
def tile_function(mod: Mod, dtype: np.dtype[Any], differentiated: bool) -> Any:
    """A mod compiled for a tile: in place; with `differentiated`, its derivatives to the second array."""
    value = mod.value_and_derivative(dtype.name) if differentiated else mod.value(dtype.name)
    body = of_mask(inner(value)) if mod.kind == "mask_mod" else of_score(inner(value), differentiated)
    numbers = types.CPointer(from_dtype(dtype))
    return cfunc(types.void(numbers, numbers, *[types.int64] * len(INTEGERS)), error_model="numpy")(body)


def of_score(score_mod: Any, differentiated: bool) -> Callable[..., None]:
    """S = score_mod(S, ...)."""

    def modify(S, derivatives, height, width, b, h, i0, j0, last_i, last_j, rows):
        s, d = carray(S, (height, width)), carray(derivatives, (height, width))
        for x in range(height):
            for y in range(width):
                i, j = min(i0 + (x if rows else y), last_i), min(j0 + (y if rows else x), last_j)
                if differentiated:
                    s[x, y], d[x, y] = score_mod(s[x, y], b, h, i, j)
                else:
                    s[x, y] = score_mod(s[x, y], b, h, i, j)

    return modify


def of_mask(mask_mod: Any) -> Callable[..., None]:
    """S = -inf where mask_mod hides the key."""

    def modify(S, derivatives, height, width, b, h, i0, j0, last_i, last_j, rows):
        s = carray(S, (height, width))
        for x in range(height):
            for y in range(width):
                i, j = min(i0 + (x if rows else y), last_i), min(j0 + (y if rows else x), last_j)
                if not mask_mod(b, h, i, j):
                    s[x, y] = -np.inf

    return modify
