"""The abstract syntax tree of a function that exists, with the file and the lines it was written in."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterator
from types import CodeType, FunctionType

AnyFunction = ast.FunctionDef | ast.Lambda
DEEPEST = 20  # functions that call one another


class ModError(Exception):
    """Why a mod cannot be compiled: where, the user's line, and below it the reason."""

    def __init__(self, reason: str, node: ast.AST | None = None, file: str = "") -> None:
        super().__init__(reason)
        self.reason, self.node, self.file = reason, node, file

    def __str__(self) -> str:
        line = getattr(self.node, "lineno", None)
        if line is None:
            return self.reason
        return f"{self.file}:{line}: {linecache.getline(self.file, line).strip()}\n    {self.reason}"


def tree_of(function: FunctionType) -> AnyFunction:
    """The definition of a function, read from its file or from the notebook's cell."""
    code = function.__code__
    lines = linecache.getlines(code.co_filename, function.__globals__)
    if not lines:
        raise ModError(f"the source of {function.__qualname__} cannot be read: define it in a file or a notebook")
    try:
        tree = ast.parse("".join(lines))
    except SyntaxError as error:
        raise ModError(f"{code.co_filename} changed since {function.__qualname__} was defined: {error}") from error
    found = [node for node in definitions(tree) if defines(node, code)]
    if len(found) > 1:
        found = [node for node in found if encloses(node, code)]
    if not found:
        raise ModError(f"{code.co_filename} has no {function.__qualname__} at line {code.co_firstlineno} any more")
    if len({ast.dump(node) for node in found}) > 1:
        raise ModError("several functions begin on its line: write it on one of its own", found[0], code.co_filename)
    return found[0]


def definitions(tree: ast.AST) -> Iterator[AnyFunction]:
    """All functions of a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            yield node


def defines(node: AnyFunction, code: CodeType) -> bool:
    """Could the code come from this definition?"""
    decorators = [] if isinstance(node, ast.Lambda) else node.decorator_list
    first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
    name = "<lambda>" if isinstance(node, ast.Lambda) else node.name
    names = [argument.arg for argument in node.args.args]
    return (first, name) == (code.co_firstlineno, code.co_name) and names == list(code.co_varnames[: len(names)])


def encloses(node: AnyFunction, code: CodeType) -> bool:
    """Do all instructions of the code come from within the definition? Python before 3.11 does not say."""
    places = [place for place in getattr(code, "co_positions", tuple)() if None not in place and place[2:] != (0, 0)]
    begin, end = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
    return all(begin <= (line, first) and (last_line, last) <= end for line, last_line, first, last in places)
