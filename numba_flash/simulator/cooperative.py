"""`cuda.cg`: cooperative groups, as far as blocks that need not be there at the same time allow."""

from __future__ import annotations

from .barriers import syncthreads
from .thread import current


class GridGroup:
    """All threads of a grid of one block."""

    def sync(self) -> None:
        """Wait for all threads of the grid.

        Raises
        ------
        NotImplementedError
            If the grid has more than one block.
        """
        if set(current().gridDim) != {1}:
            raise NotImplementedError("the simulator cannot synchronize blocks: not all are there at once")
        syncthreads()


def this_grid() -> GridGroup:
    """The running thread's grid."""
    return GridGroup()
