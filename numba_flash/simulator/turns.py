"""Waiting for a number in global memory to grow: other blocks may make it."""

from __future__ import annotations

from typing import Any

from .gate import Gate, park
from .pointer import Window


class NumberGate(Gate):
    """Where one thread waits until an element is `least`."""

    of_others = True

    def __init__(self, view: Window, place: int, least: int) -> None:
        super().__init__(f"element {place} of an array in global memory, that is not {least} yet")
        self._cells, self._place, self._least = view.cells, place, least

    def is_open(self) -> bool:
        """Is it?"""
        return bool(self._cells[self._place] >= self._least)


def wait_for_number(view: Window, at: Any, least: Any) -> None:
    """Suspend the running thread until element `at` is `least` or more."""
    place = view.locate("read", at, 1, view.dtype.itemsize)
    gate = NumberGate(view, place, int(least))
    if not gate.is_open():
        park(gate)
