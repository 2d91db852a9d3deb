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
from numba_flash.mods.meaning import meaning
from numba_flash.mods.resolve import resolve
from numba_flash.mods.source import ModError
from numba_flash.mods.translate import BOOL, REAL, names_for, translate

REMEMBERED = 1024  # functions read; then all are forgotten
READ: dict[tuple[Any, ...], Any] = {}  # by kind, whether differentiated, and meaning: a Mod or Refused
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

    def value(self, real: str, compiled: bool = True, choose: Any = None) -> Callable[..., Any]:
        """The Python function of its value in a dtype of arithmetic, for numba or for plain Python.

        `choose`: what numba can compile as choose(condition, x, y) without a branch, where branches are slow.
        """
        return made(self, real, compiled, choose, False)

    def value_and_derivative(self, real: str, compiled: bool = True, choose: Any = None) -> Callable[..., Any]:
        """That of (value, derivative by the score).

        Raises
        ------
        ModError
            Where no derivative is known.
        """
        return made(self, real, compiled, choose, True)

    @property
    def indexes(self) -> bool:
        """Does it look numbers up? Then it must not meet rows and columns that do not exist."""
        return any(isinstance(node, ast.Subscript) for node in ast.walk(self.tree))

    def source(self, differentiated: bool = False) -> str:
        """What kernels compute, as Python: the value, or (value, derivative by the score)."""
        return ast.unparse(definition(self, differentiated))


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
def made(mod: Mod, real: str, compiled: bool, choose: Any, differentiated: bool) -> Callable[..., Any]:
    """The function itself; a debugger finds its lines where the user wrote them."""
    tree = definition(mod, differentiated)
    if compiled:
        tree = ast.fix_missing_locations(ForMachines(choose is not None).visit(ast.parse(ast.unparse(tree)).body[0]))
    names = {**names_for(real, numpy=not compiled), "choose": choose}
    exec(compile(ast.Module([tree], []), mod.file if not compiled else f"<{mod.kind}>", "exec"), names)
    function = names[tree.name]
    return function if compiled else quiet(function)


class ForMachines(ast.NodeTransformer):
    """No breakpoints; and a number is looked up by comparisons: numba's tuples branch and raise.

    chooses : by calls of `choose`, without branches, of which LLVM would make a tree
    """

    def __init__(self, chooses: bool) -> None:
        self.chooses = chooses

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        return ast.Pass()

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        assert isinstance(node.value, ast.Tuple)
        *others, found = node.value.elts
        place = ast.unparse(node.slice)
        place = self.choice(f"{place} < 0", f"whole({place} + {len(node.value.elts)})", f"whole({place})")
        for n in reversed(range(len(others))):
            found = ast.parse(
                self.choice(f"{place} == {n}", ast.unparse(others[n]), ast.unparse(found)), mode="eval"
            ).body
        return found

    def choice(self, condition: str, x: str, y: str) -> str:
        """x where the condition holds, else y."""
        return f"choose({condition}, {x}, {y})" if self.chooses else f"({x} if {condition} else {y})"


def quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same of Python's ints, and silent beyond the domain of a function: hidden scores are computed, too."""

    def mod(*arguments: Any) -> Any:
        *score, b, h, i, j = arguments
        with np.errstate(all="ignore"):
            return function(*score, int(b), int(h), int(i), int(j))

    return mod


def read_mod(kind: str, function: Any, differentiated: bool = False) -> Mod | Refused | None:
    """What a caller gave for score_mod or mask_mod; None stays None, and a Mod itself."""
    if function is None or isinstance(function, Refused):
        return function
    function = getattr(function, "py_func", function)  # numba's functions have their Python function
    if not isinstance(function, FunctionType | Mod):
        return Refused(f"{kind}={function!r} (needs a Python function of ({', '.join(PARAMETERS[kind])}))")
    known = kind, differentiated, function if isinstance(function, Mod) else meaning(function)
    if known not in READ:
        if len(READ) >= REMEMBERED:
            READ.clear()
        READ[known] = mod_of(kind, function, differentiated and kind == "score_mod")
    return READ[known]


def mod_of(kind: str, function: FunctionType | Mod, differentiated: bool) -> Mod | Refused:
    """A function as a mod, or why it cannot be one."""
    try:
        if isinstance(function, Mod):
            mod = function
        else:
            tree = resolve(function, PARAMETERS[kind])
            mod = Mod(kind, ast.unparse(tree), function.__code__.co_filename, tree)
        definition(mod, differentiated)
    except ModError as error:
        return Refused(f"{kind}: {error}")
    return mod
