"""How many bytes a rung moves: what its card's formula says, and what the simulator counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Traffic:
    """Bytes that all threads of all launches of one call move."""

    global_read: int = 0
    global_written: int = 0
    shared_read: int = 0
    shared_written: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def __mul__(self, count: int) -> Traffic:
        return Traffic(*(n * count for n in vars(self).values()))
