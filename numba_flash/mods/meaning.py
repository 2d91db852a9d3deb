"""What a function would compute if it were called now, as a key: made in microseconds, where reading it takes more."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

from numba_flash.mods.source import DEEPEST


def meaning(function: FunctionType, depth: int = 0) -> Hashable:
    """Its code, and what the names in it mean: numbers by value, functions by their own meaning, the rest by identity.

    Two functions that differ in what they compute have different meanings; two calls of one that nothing has happened
    to in between have the same.
    """
    code = function.__code__
    cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
    closed = [(name, content(cell, code, depth)) for name, cell in cells]
    names = sorted({name for inner in codes(code) for name in inner.co_names})
    outside = [
        (name, of_value(function.__globals__[name], code, depth)) for name in names if name in function.__globals__
    ]
    return code, code.co_filename, tuple(closed), tuple(outside)


def codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code and those within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)


def content(cell: Any, code: CodeType, depth: int) -> Hashable:
    """What a variable of an enclosing function means; it may have no value yet."""
    try:
        return of_value(cell.cell_contents, code, depth)
    except ValueError:
        return "no value"


def of_value(value: Any, code: CodeType, depth: int) -> Hashable:
    """What one name means; of a module, what the function may take from it."""
    value = getattr(value, "py_func", value)
    if isinstance(value, bool | int | float | np.generic):
        return type(value).__name__, repr(value)
    if isinstance(value, tuple):
        return tuple(of_value(x, code, depth) for x in value)
    if isinstance(value, FunctionType) and depth < DEEPEST:
        return meaning(value, depth + 1)
    if isinstance(value, ModuleType) and depth < DEEPEST:
        taken = (vars(value).get(name) for name in code.co_names)
        return id(value), tuple(of_value(x, code, depth + 1) for x in taken)
    return id(value)
