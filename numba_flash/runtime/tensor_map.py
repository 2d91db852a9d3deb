"""How a tensor lies in memory, as the copies of boxes want to be told (`ptx.load_box`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from numba_flash.arrays import ALIGNED, ITEMSIZE, Array, empty
from numba_flash.config import MAP_WORDS, ROW_BYTES
from numba_flash.tiling import round_up

NO_MAP = (0,) * MAP_WORDS  # an argument for a map that a kernel does not use
ANY_ADDRESS = 1 << 20  # kernels write the tensor's own


@dataclass(frozen=True)
class TensorMap:
    """A tensor but for its address, and the box of it that one copy moves; the fastest axis comes first.

    shape, box : elements along each axis
    strides : bytes from one element to the next along each axis but the first, where they are neighbours
    """

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]


def row_elements(dtype: str) -> int:
    """How many elements a row of a box has."""
    return ROW_BYTES // ITEMSIZE[dtype]


def tensor_map(x: Array, rows: int, together: int = 1) -> TensorMap:
    """The map of an array that `fits_boxes`, for boxes of so many rows of 128 bytes of one matrix.

    Or of the same rows of several matrices `together`, neighbours along the axis before.
    """
    strides, extent = list[int](), round_up(max(x.shape[-1], 1) * x.itemsize, ALIGNED)
    for n, step in zip(x.shape[-2::-1], x.strides[-2::-1], strict=True):
        strides.append(step * x.itemsize if n > 1 and 0 not in x.shape else extent)
        extent = max(extent, max(n, 1) * strides[-1])
    box = (row_elements(x.dtype), rows, together, 1, 1)[: len(x.shape)]
    return TensorMap(x.dtype, tuple(max(n, 1) for n in x.shape[::-1]), tuple(strides), box)


def map_scratch(like: Array, blocks: int, maps: int) -> Array:
    """Memory where each block of a kernel writes so many maps."""
    return empty(like, (blocks, maps, MAP_WORDS), "float64")  # for its 8 bytes


@cache
def words(what: TensorMap) -> tuple[int, ...]:
    """A map as the driver encodes it.

    Raises
    ------
    RuntimeError
        If the driver refuses it.
    """
    from cuda.bindings import driver

    kinds = driver.CUtensorMapDataType
    kind = {
        "float16": kinds.CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        "bfloat16": kinds.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        "float32": kinds.CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
    }[what.dtype]
    error, encoded = driver.cuTensorMapEncodeTiled(
        kind,
        len(what.shape),
        ANY_ADDRESS,
        wide(driver.cuuint64_t, what.shape),
        wide(driver.cuuint64_t, what.strides),
        wide(driver.cuuint32_t, what.box),
        wide(driver.cuuint32_t, [1] * len(what.shape)),
        driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
        driver.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_128B,
        driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
    )
    if error != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"the driver encodes no tensor map of {what} ({error.name})")
    return tuple(int(word) for word in encoded.opaque)


def wide(kind: Any, numbers: Sequence[int]) -> list[Any]:
    """Numbers as the driver takes them."""
    return [kind(n) for n in numbers]
