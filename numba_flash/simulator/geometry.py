"""`cuda.threadIdx` and its like: where the thread that asks is."""

from __future__ import annotations

from operator import attrgetter

from .thread import current


class Coordinates:
    """The x, y and z of one of the running thread's Dim3 attributes."""

    def __init__(self, name: str) -> None:
        self._of = attrgetter(name)

    @property
    def x(self) -> int:
        """Along the fastest axis."""
        return self._of(current()).x

    @property
    def y(self) -> int:
        """Along the middle axis."""
        return self._of(current()).y

    @property
    def z(self) -> int:
        """Along the slowest axis."""
        return self._of(current()).z

    def __repr__(self) -> str:
        return repr(self._of(current()))


def grid(ndim: int) -> int | tuple[int, ...]:
    """The thread's place in the whole grid, along the first 1, 2 or 3 axes."""
    thread = current()
    block, size, place = thread.blockIdx, thread.blockDim, thread.threadIdx
    return _axes(ndim, block.x * size.x + place.x, block.y * size.y + place.y, block.z * size.z + place.z)


def gridsize(ndim: int) -> int | tuple[int, ...]:
    """The number of threads of the whole grid, along the first 1, 2 or 3 axes."""
    thread = current()
    blocks, size = thread.gridDim, thread.blockDim
    return _axes(ndim, blocks.x * size.x, blocks.y * size.y, blocks.z * size.z)


def _axes(ndim: int, *xyz: int) -> int | tuple[int, ...]:
    if ndim not in (1, 2, 3):
        raise ValueError(f"{ndim=} is not 1, 2 or 3")
    return xyz[0] if ndim == 1 else xyz[:ndim]
