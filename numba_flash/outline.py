"""Arrays without memory: a call is planned with these, so that its plan serves every call that looks alike.

An `Outline` takes the place of an array's data. It knows in which array of the call it lies, by number (operands come
first, then what the call itself makes), and how far from that one's first element.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from numba_flash.arrays import ITEMSIZE, Array, Description, wrap


@dataclass(frozen=True)
class Outline:
    """An array but for its memory; `offset` is in bytes, `strides` in elements, `misaligned` the source's address."""

    source: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    device: int | None
    misaligned: int

    @property
    def address(self) -> int:
        """Only its remainder means anything."""
        return self.misaligned + self.offset

    def reshape(self, shape: tuple[int, ...]) -> Outline:
        """A contiguous one with another shape."""
        return replace(self, shape=shape, strides=contiguous(shape))

    def __getitem__(self, index: Any) -> Outline:
        """By ints, None and whole slices, as NumPy does it."""
        offset, shape, strides, axis = self.offset, [], [], 0
        for item in index if isinstance(index, tuple) else (index,):
            if item is None:
                shape.append(1)
                strides.append(0)
            elif isinstance(item, slice):
                assert item == slice(None)
                shape.append(self.shape[axis])
                strides.append(self.strides[axis])
                axis += 1
            else:
                offset += item * self.strides[axis] * ITEMSIZE[self.dtype]
                axis += 1
        rest = slice(axis, None)
        shape, strides = (*shape, *self.shape[rest]), (*strides, *self.strides[rest])
        return replace(self, offset=offset, shape=shape, strides=strides)


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a contiguous array."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.insert(0, step)
        step *= n
    return tuple(strides)


class Outlines:
    """The library of a call's outlines; `made` is what the call itself makes, results and scratch, in order."""

    def __init__(self, operands: int) -> None:
        self.operands = operands
        self.made: list[tuple[tuple[int, ...], str]] = []

    def of(self, source: int, description: Description) -> Array:
        """The operand that has this number and description."""
        library, shape, strides, dtype, misaligned, device = description
        steps = library.element_strides(strides, dtype)
        outline = Outline(source, 0, tuple(shape), steps, library.dtype_name(dtype), device, misaligned)
        return wrap(outline, self)

    def empty(self, shape: Sequence[int], dtype: str, device: int | None) -> Outline:
        self.made.append((tuple(shape), dtype))
        source = self.operands + len(self.made) - 1
        return Outline(source, 0, tuple(shape), contiguous(shape), dtype, device, misaligned=0)

    def dtype(self, x: Outline) -> str:
        return x.dtype

    def strides(self, x: Outline) -> tuple[int, ...]:
        return x.strides

    def device(self, x: Outline) -> int | None:
        return x.device

    def address(self, x: Outline) -> int:
        return x.address

    def as_strided(self, x: Outline, shape: tuple[int, ...], strides: tuple[int, ...]) -> Outline:
        return replace(x, shape=shape, strides=strides)
