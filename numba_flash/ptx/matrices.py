"""Tensor cores, sm_80 and later: small matrices that the 32 lanes of a warp hold together, a few registers each.

A fragment is a lane's share of a matrix. It is a group of neighbouring elements in a local array, which the compiler
keeps in registers: of A four uint32, of B two, of an accumulator four float32, so fragment n of an accumulator is
acc[4*n : 4*n + 4]. `tiling.a_place`, `b_place` and `accumulator_place` say who holds what. All lanes of a warp execute
these instructions together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from numba import types

from numba_flash import simulator
from numba_flash.ptx.arithmetic import NAN
from numba_flash.ptx.codegen import (
    element_pointer,
    emit_asm,
    emitted,
    load_registers,
    narrow_pointer,
    store_registers,
    unpack,
)
from numba_flash.tiling import a_place, a_place_tf32, accumulator_place, b_place, b_place_tf32

LANES = 32
SIDE = 8  # of the matrices of ldmatrix


def _ldmatrix(count: int, how: str = "") -> Callable[..., Any]:
    words = ", ".join(f"${n}" for n in range(count))
    text = f"ldmatrix.sync.aligned.m8n8.x{count}{how}.shared.b16 {{{words}}}, [${count}];"

    def typing(out: Any, n: Any, tile: Any, index: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            row = narrow_pointer(builder, element_pointer(context, builder, tile, args[2], index, args[3]), 3)
            loaded = emit_asm(context, builder, text, [(types.uint32, row)], [types.uint32] * count, convergent=True)
            store_registers(context, builder, out, args[0], n, args[1], unpack(builder, loaded, count))
            return context.get_dummy_value()

        return types.void(out, n, tile, index), emit

    return typing


def loaded(rows: Any, transposed: bool = False) -> Any:
    """The words that ldmatrix gives each of the 32 lanes of `rows`, (8 * count, 8) 16-bit elements."""
    matrices = np.asarray(rows).reshape(-1, SIDE, SIDE)
    matrices = matrices.swapaxes(1, 2) if transposed else matrices
    return np.ascontiguousarray(matrices).view(np.uint32).reshape(-1, LANES).T


def _load(out: Any, n: Any, tile: Any, index: Any, count: int, transposed: bool = False) -> None:
    """What ldmatrix does in one lane."""
    lane, group = simulator.current().lane, registers(out, n, count)
    row = simulator.locate_vector("read", tile, index, SIDE) if lane < SIDE * count else None

    def load(rows: list[Any]) -> Any:
        return loaded([cells[k : k + SIDE] for cells, k in rows[: SIDE * count]], transposed)

    group[:] = simulator.exchange_warp(row, name=f"ldmatrix.x{count}", combine=load)[lane]


@emitted(_ldmatrix(1))
def ldmatrix_x1(out: Any, n: Any, tile: Any, index: Any) -> None:
    """As `ldmatrix_x4`, one matrix to out[n]; lanes 0 to 7 point to its rows."""
    _load(out, n, tile, index, 1)


@emitted(_ldmatrix(2))
def ldmatrix_x2(out: Any, n: Any, tile: Any, index: Any) -> None:
    """As `ldmatrix_x4`, two matrices to out[2*n] and out[2*n + 1]; lanes 0 to 15 point to their rows."""
    _load(out, n, tile, index, 2)


@emitted(_ldmatrix(4))
def ldmatrix_x4(out: Any, n: Any, tile: Any, index: Any) -> None:
    """Load four 8 x 8 matrices of 16-bit elements from shared memory, one to each of out[4*n : 4*n + 4], uint32.

    Lane l points with tile[index] to row l % 8 of matrix l // 8: 16 bytes, at a multiple of 16. Of every matrix a lane
    gets two neighbours: elements 2*(l % 4), in the lower half, and 2*(l % 4) + 1 of row l // 4.
    """
    _load(out, n, tile, index, 4)


@emitted(_ldmatrix(1, ".trans"))
def ldmatrix_x1_trans(out: Any, n: Any, tile: Any, index: Any) -> None:
    """As `ldmatrix_x1`, the transposed matrix: elements of column l // 4."""
    _load(out, n, tile, index, 1, transposed=True)


@emitted(_ldmatrix(2, ".trans"))
def ldmatrix_x2_trans(out: Any, n: Any, tile: Any, index: Any) -> None:
    """As `ldmatrix_x2`, transposed matrices: elements of column l // 4."""
    _load(out, n, tile, index, 2, transposed=True)


@emitted(_ldmatrix(4, ".trans"))
def ldmatrix_x4_trans(out: Any, n: Any, tile: Any, index: Any) -> None:
    """As `ldmatrix_x4`, transposed matrices: elements of column l // 4."""
    _load(out, n, tile, index, 4, transposed=True)


def _mma(shape: str, kind: str) -> Callable[..., Any]:
    text = (
        f"mma.sync.aligned.{shape}.row.col.f32.{kind}.{kind}.f32 "
        "{$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};"
    )

    def typing(acc: Any, n: Any, a: Any, i: Any, b: Any, j: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            operands = []
            for array, at, index, where, size in ((a, 2, i, 3, 4), (b, 4, j, 5, 2), (acc, 0, n, 1, 4)):
                group = load_registers(context, builder, array, args[at], index, args[where], size)
                operands += [(array.dtype, register) for register in group]
            sums = emit_asm(context, builder, text, operands, [types.float32] * 4, memory=False, convergent=True)
            store_registers(context, builder, acc, args[0], n, args[1], unpack(builder, sums, 4))
            return context.get_dummy_value()

        return types.void(acc, n, a, i, b, j), emit

    return typing


def places(place: Callable[[int, int], tuple[int, int]], elements: int) -> tuple[Any, Any]:
    """The rows and columns of all elements of all lanes, to index a matrix with."""
    table = np.array([[place(lane, n) for n in range(elements)] for lane in range(LANES)])
    return table[..., 0], table[..., 1]


def tf32(words: Any) -> Any:
    """What tensor cores see of float32: eight bits of exponent, ten of fraction."""
    return (words & np.uint32(0xFFFFE000)).view(np.float32)


C = places(accumulator_place, 4)
K16 = places(a_place, 8), places(b_place, 4)
K8 = places(a_place_tf32, 4), places(b_place_tf32, 2)

# What the words of A and B mean, and where their elements belong.
OPERANDS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "float16": (lambda words: words.view(np.float16), K16),
    "bfloat16": (lambda words: words.view(ml_dtypes.bfloat16), K16),
    "tf32": (tf32, K8),
}


def matrix(elements: Any, where: tuple[Any, Any]) -> Any:
    """The matrix whose elements the lanes hold, in float64."""
    x = np.empty((where[0].max() + 1, where[1].max() + 1))
    x[where] = elements
    return x


def multiplied(a: Any, b: Any, acc: Any, kind: str) -> Any:
    """The accumulators (32, 4) that mma leaves the lanes, which held the words a (32, 4), b (32, 2) and acc (32, 4)."""
    values, (a_places, b_places) = OPERANDS[kind]
    D = (matrix(values(a), a_places) @ matrix(values(b), b_places) + matrix(acc, C)).astype(np.float32)
    return np.where(np.isnan(D), NAN, D)[C]


def _multiply(acc: Any, n: Any, a: Any, i: Any, b: Any, j: Any, kind: str) -> None:
    """What mma does in one lane."""
    group = registers(acc, n, 4)
    mine = registers(a, i, 4).copy(), registers(b, j, 2).copy(), group.copy()

    def multiply(lanes: list[Any]) -> Any:
        words_a, words_b, sums = map(np.array, zip(*lanes, strict=True))
        return multiplied(words_a, words_b, sums, kind)

    group[:] = simulator.exchange_warp(mine, name="mma", combine=multiply)[simulator.current().lane]


@emitted(_mma("m16n8k16", "f16"))
def mma_float16(acc: Any, n: Any, a: Any, i: Any, b: Any, j: Any) -> None:
    """Fragment n of acc (16 x 8) += fragment i of a (16 x 16) @ fragment j of b (16 x 8); float16, sums in float32.

    Here the sum of the exact products and of what acc held is rounded once. Hardware may round, or cut off, after every
    few terms: float32 sums in an order of its own. NaN gives 0x7FFFFFFF.
    """
    _multiply(acc, n, a, i, b, j, "float16")


@emitted(_mma("m16n8k16", "bf16"))
def mma_bfloat16(acc: Any, n: Any, a: Any, i: Any, b: Any, j: Any) -> None:
    """As `mma_float16`, for bfloat16."""
    _multiply(acc, n, a, i, b, j, "bfloat16")


@emitted(_mma("m16n8k8", "tf32"))
def mma_tf32(acc: Any, n: Any, a: Any, i: Any, b: Any, j: Any) -> None:
    """Fragment n of acc (16 x 8) += fragment i of a (16 x 8) @ fragment j of b (8 x 8); bits of float32, as tf32.

    A register holds one element: `tiling.a_place_tf32`, `b_place_tf32`. Its 13 lowest bits are ignored; see
    `float32_to_tf32`. Sums are those of `mma_float16`.
    """
    _multiply(acc, n, a, i, b, j, "tf32")


def registers(array: Any, n: Any, size: int) -> Any:
    """Group n of so many elements of a local array."""
    group = array[size * n : size * n + size]
    if n < 0 or len(group) != size:
        raise simulator.MemoryFault(f"{simulator.current()}: no group {n} of {size} in {len(array)} registers")
    return group
