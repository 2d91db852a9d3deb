"""Arrays without memory: a call is planned with these, so that its plan serves every call that looks alike.

An `Outline` takes the place of an array's data. It knows in which array of the call it lies, by number (operands come
first, then what the call itself makes), and how far from that one's first element.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
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
        axes = list(zip(self.shape, self.strides, strict=True))
        offset, kept = self.offset, []
        for item in index if isinstance(index, tuple) else (index,):
            if item is None:
                kept.append((1, 0))
            elif item == slice(None):
                kept.append(axes.pop(0))
            else:
                _, step = axes.pop(0)
                offset += item * step * ITEMSIZE[self.dtype]
        kept += axes
        return replace(self, offset=offset, shape=tuple(n for n, _ in kept), strides=tuple(s for _, s in kept))


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a contiguous array."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


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
