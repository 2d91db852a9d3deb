"""Where in a kernel a call is made."""

from __future__ import annotations

import os
import sys
from collections.abc import Hashable
from dis import opmap
from itertools import islice
from types import CodeType, FrameType

CallPath = int  # the number that a launch gives a place and those of its callers

RETURN = bytes([opmap["RETURN_VALUE"]])
PACKAGE = __name__.rpartition(".")[0]


class CallSites:
    """Numbers the places in the source that calls are made from, for one launch."""

    def __init__(self) -> None:
        self._of_instructions: dict[tuple[int, ...], CallPath] = {}
        self._of_positions: dict[Hashable, CallPath] = {}

    def path(self, call: FrameType | None) -> CallPath:
        """The place of a call, and those of its callers up to the kernel.

        Two calls of a helper have different paths, and so have two calls on one line.
        """
        instructions: list[int] = []
        frame = call
        while frame is not None:
            instructions += id(frame.f_code), frame.f_lasti
            frame = frame.f_back
        key = tuple(instructions)
        path = self._of_instructions.get(key)
        if path is None:
            path = self._of_instructions[key] = self._number(call)
        return path

    def _number(self, frame: FrameType | None) -> CallPath:
        positions: list[Hashable] = []
        while frame is not None:
            positions.append((id(frame.f_code), _position(frame.f_code, frame.f_lasti)))
            frame = frame.f_back
        return self._of_positions.setdefault(tuple(positions), len(self._of_positions))


def _position(code: CodeType, offset: int) -> Hashable:
    """What all copies of an instruction have in common: the compiler may repeat the end of a function."""
    if sys.version_info >= (3, 11):
        position = next(islice(code.co_positions(), offset // 2, None))
        if None not in position:
            return position
    line = next(line for start, end, line in code.co_lines() if start <= offset < end)
    until_return = code.co_code[offset:].partition(RETURN)[0]
    return line, until_return


def where(frame: FrameType | None) -> str:
    """For people: `helper.py:7 called from kernel.py:41`, without the simulator's own frames."""
    places = []
    while frame is not None:
        if frame.f_globals.get("__package__") != PACKAGE:
            places.append(f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}")
        frame = frame.f_back
    return " called from ".join(places)
