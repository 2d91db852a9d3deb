"""A mod as calls and kernels know it: equal to every other one that computes the same from the same lines."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from types import FunctionType
from typing import Any

import numpy as np

from numba_flash.mods.differentiate import differentiate
from numba_flash.mods.resolve import resolve
from numba_flash.mods.source import ModError
from numba_flash.mods.translate import BOOL, REAL, names_for, translate

PARAMETERS = {"score_mod": ("score", "b", "h", "i", "j"), "mask_mod": ("b", "h", "i", "j")}


@dataclass(frozen=True)
class Mod:
    """A resolved mod.

    kind : "score_mod" or "mask_mod"
    text : its definition, with all numbers in it
    file : where its lines are
    """

    kind: str
    text: str
    file: str
    tree: ast.FunctionDef = field(repr=False, compare=False)

    def value(self, real: str, compiled: bool = True) -> Callable[..., Any]:
        """The Python function of its value in a dtype of arithmetic, for numba or for plain Python."""
        return made(self, real, compiled, False)

    def value_and_derivative(self, real: str, compiled: bool = True) -> Callable[..., Any]:
        """That of (value, derivative by the score).

        Raises
        ------
        ModError
            Where no derivative is known.
        """
        return made(self, real, compiled, True)

    def check(self, differentiated: bool) -> None:
        """Raise ModError if it cannot be translated, or has no derivative."""
        definition(self, differentiated)


@dataclass(frozen=True)
class Refused:
    """What is wrong with a score_mod or mask_mod."""

    complaint: str


@cache
def definition(mod: Mod, differentiated: bool) -> ast.FunctionDef:
    """The translated definition."""
    tree = differentiate(mod.tree, mod.file) if differentiated else mod.tree
    return translate(tree, BOOL if mod.kind == "mask_mod" else REAL, mod.file)


@cache
def made(mod: Mod, real: str, compiled: bool, differentiated: bool) -> Callable[..., Any]:
    """The function itself; a debugger finds its lines where the user wrote them."""
    tree = definition(mod, differentiated)
    if compiled:
        tree = WithoutBreakpoints().visit(ast.parse(ast.unparse(tree)).body[0])
    names = names_for(real, numpy=not compiled)
    exec(compile(ast.Module([tree], []), mod.file if not compiled else f"<{mod.kind}>", "exec"), names)
    function = names[tree.name]
    return function if compiled else quiet(function)


class WithoutBreakpoints(ast.NodeTransformer):
    """Machine code has none."""

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        return ast.copy_location(ast.Pass(), node)


def quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same, beyond the domain of a function as silent as machine code is: hidden scores are computed, too."""

    def mod(*arguments: Any) -> Any:
        with np.errstate(all="ignore"):
            return function(*arguments)

    return mod


def read_mod(kind: str, function: Any, differentiated: bool = False) -> Mod | Refused | None:
    """What a caller gave for score_mod or mask_mod; None stays None."""
    if function is None or isinstance(function, Mod | Refused):
        return function
    function = getattr(function, "py_func", function)  # numba's functions have their Python function
    if not isinstance(function, FunctionType):
        return Refused(f"{kind}={function!r} (needs a Python function of ({', '.join(PARAMETERS[kind])}))")
    try:
        tree = resolve(function, PARAMETERS[kind])
        mod = Mod(kind, ast.unparse(tree), function.__code__.co_filename, tree)
        mod.check(differentiated and kind == "score_mod")
    except ModError as error:
        return Refused(f"{kind}: {error}")
    return mod
