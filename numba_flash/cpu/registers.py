"""A tile of a matrix held in SIMD registers: the three instructions of a matrix product on a CPU.

    zero_tile(C)                     a tile of C's type
    add_outer(tile, A, r, B, c, k)   tile + A[r : r + ROWS, k] (outer) B[k, c : c + lanes]
    store_tile(C, r, c, tile)        C[r : r + ROWS, c : c + lanes] = tile

A tile is ROWS vectors of 64 bytes. With AVX2 that is 12 of the 16 registers, two hold the row of B and one a broadcast
element of A: 12 multiply-adds for 8 loads, enough to keep both multiply-add units busy. The functions below say what
each instruction means (and run under NUMBA_DISABLE_JIT=1); their lowerings are what numba compiles.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import lower_builtin, models, register_model, type_callable

ROWS = 6
VECTOR_BYTES = 64


def zero_tile(C):
    """A tile of zeros, of C's type."""
    return np.zeros((ROWS, VECTOR_BYTES // C.itemsize), C.dtype)


def add_outer(tile, A, r, B, c, k):
    """Tile plus the outer product of ROWS elements of A's column k, from row r, and a vector of B's row k, from c."""
    return tile + np.outer(A[r : r + ROWS, k], B[k, c : c + tile.shape[1]])


def store_tile(C, r, c, tile):
    """Write a tile to C with its corner at (r, c)."""
    C[r : r + ROWS, c : c + tile.shape[1]] = tile


class TileType(types.Type):
    """ROWS vectors of one floating-point type."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        self.itemsize = dtype.bitwidth // 8
        super().__init__(f"Tile({dtype})")


@register_model(TileType)
class TileModel(models.PrimitiveModel):
    """In LLVM: an array of ROWS vectors, which its optimizer takes apart into registers."""

    def __init__(self, manager, tile: TileType) -> None:
        vector = ir.VectorType(manager.lookup(tile.dtype).get_value_type(), VECTOR_BYTES // tile.itemsize)
        super().__init__(manager, tile, ir.ArrayType(vector, ROWS))


def address(context, builder, array_type, array, row, col, pointee):
    """The address of array[row, col], as a pointer to `pointee`; any strides, no bounds check."""
    view = context.make_array(array_type)(context, builder, array)
    row_stride, col_stride = cgutils.unpack_tuple(builder, view.strides)
    offset = builder.add(builder.mul(row, row_stride), builder.mul(col, col_stride))
    return cgutils.pointer_add(builder, view.data, offset, pointee.as_pointer())


@type_callable(zero_tile)
def type_zero_tile(context):
    return lambda C: TileType(C.dtype)


@lower_builtin(zero_tile, types.Array)
def lower_zero_tile(context, builder, signature, arguments):
    return ir.Constant(context.get_value_type(signature.return_type), None)


@type_callable(add_outer)
def type_add_outer(context):
    return lambda tile, A, r, B, c, k: tile


@lower_builtin(add_outer, TileType, types.Array, types.intp, types.Array, types.intp, types.intp)
def lower_add_outer(context, builder, signature, arguments):
    tile_type, A_type, _, B_type, _, _ = signature.args
    tile, A, r, B, c, k = arguments
    vector = context.get_value_type(tile_type).element
    b = builder.load(address(context, builder, B_type, B, k, c, vector), align=tile_type.itemsize)
    for x in range(ROWS):
        row = builder.add(r, r.type(x))
        a = builder.load(address(context, builder, A_type, A, row, k, vector.element), align=tile_type.itemsize)
        product = builder.fmul(broadcast(builder, a, vector), b, flags=["contract"])
        tile = builder.insert_value(tile, builder.fadd(builder.extract_value(tile, x), product, flags=["contract"]), x)
    return tile


def broadcast(builder, scalar, vector):
    """A vector with `scalar` in every lane."""
    undefined = ir.Constant(vector, ir.Undefined)
    lane0 = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None)
    return builder.shuffle_vector(builder.insert_element(undefined, scalar, ir.IntType(32)(0)), undefined, lane0)


@type_callable(store_tile)
def type_store_tile(context):
    return lambda C, r, c, tile: types.none


@lower_builtin(store_tile, types.Array, types.intp, types.intp, TileType)
def lower_store_tile(context, builder, signature, arguments):
    C_type, _, _, tile_type = signature.args
    C, r, c, tile = arguments
    vector = context.get_value_type(tile_type).element
    for x in range(ROWS):
        to = address(context, builder, C_type, C, builder.add(r, r.type(x)), c, vector)
        builder.store(builder.extract_value(tile, x), to, align=tile_type.itemsize)
    return context.get_dummy_value()
