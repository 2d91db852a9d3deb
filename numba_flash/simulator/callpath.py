"""Where in a kernel a call is made."""

from __future__ import annotations

import os
import sys
from collections.abc import Hashable
from dis import opmap
from itertools import islice
from types import CodeType, FrameType

CallPath = tuple[int, ...]

RETURN = bytes([opmap["RETURN_VALUE"]])
PACKAGE = __name__.rpartition(".")[0]


class CallSites:
    """Numbers the places in the source that calls are made from, for one launch."""

    def __init__(self) -> None:
        self._of_instruction: dict[tuple[int, int], int] = {}
        self._of_position: dict[Hashable, int] = {}

    def path(self, frame: FrameType | None) -> CallPath:
        """The place of a call, and those of its callers up to the kernel.

        Two calls of a helper have different paths, and so have two calls on one line.
        """
        path = []
        while frame is not None:
            instruction = id(frame.f_code), frame.f_lasti
            site = self._of_instruction.get(instruction)
            if site is None:
                site = self._of_instruction[instruction] = self._number(frame.f_code, frame.f_lasti)
            path.append(site)
            frame = frame.f_back
        return tuple(path)

    def _number(self, code: CodeType, offset: int) -> int:
        return self._of_position.setdefault((id(code), _position(code, offset)), len(self._of_position))


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
