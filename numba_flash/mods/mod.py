"""A mod as calls and kernels know it: equal to every other one that computes the same from the same lines."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from numba_flash.mods.differentiate import differentiate
from numba_flash.mods.meaning import meaning
from numba_flash.mods.resolve import resolve
from numba_flash.mods.source import ModError
from numba_flash.mods.translate import BOOL, REAL, names_for, translate

SMALLEST = 1e-30  # of a divisor whose reciprocal is as exact, in float32 too
REMEMBERED = 1024  # functions read; then all are forgotten
READ: dict[tuple[Any, ...], Any] = {}  # by kind, whether differentiated, and meaning: a Mod or Refused
PARAMETERS = {"score_mod": ("score", "b", "h", "i", "j"), "mask_mod": ("b", "h", "i", "j")}


class Words(NamedTuple):
    """What a compiled mod calls in the place of what would branch: choose(condition, x, y), and functions of its dtype.

    divide : x / y
    """

    choose: Any
    divide: Any
    tanh: Any


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

    def value(self, real: str, compiled: bool = True, words: Words | None = None) -> Callable[..., Any]:
        """The Python function of its value in a dtype of arithmetic, for numba or for plain Python.

        `words`: for where branches are slow.
        """
        return made(self, real, compiled, words, False)

    def value_and_derivative(self, real: str, compiled: bool = True, words: Words | None = None) -> Callable[..., Any]:
        """That of (value, derivative by the score).

        Raises
        ------
        ModError
            Where no derivative is known.
        """
        return made(self, real, compiled, words, True)

    @property
    def indexes(self) -> bool:
        """Does it look numbers up? Then it must not meet rows and columns that do not exist."""
        return any(isinstance(node, ast.Subscript) for node in ast.walk(self.tree))

    @property
    def light(self) -> bool:
        """Is it one expression, in which nothing is looked up? Then kernels have registers enough for it."""
        return len(self.tree.body) == 1 and not self.indexes

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
def made(mod: Mod, real: str, compiled: bool, words: Words | None, differentiated: bool) -> Callable[..., Any]:
    """The function itself; a debugger finds its lines where the user wrote them."""
    tree = definition(mod, differentiated)
    if compiled:
        tree = ast.fix_missing_locations(ForMachines(words is not None).visit(ast.parse(ast.unparse(tree)).body[0]))
    names = {**names_for(real, numpy=not compiled), **(words._asdict() if compiled and words else {})}
    exec(compile(ast.Module([tree], []), mod.file if not compiled else f"<{mod.kind}>", "exec"), names)
    function = names[tree.name]
    return function if compiled else quiet(function)


class ForMachines(ast.NodeTransformer):
    """No breakpoints; and a number is looked up by comparisons: numba's tuples branch and raise.

    branchless : by calls of `choose`, where LLVM would make a tree of branches; and quotients are calls of `divide`, or
        products, where an exact division would branch
    """

    def __init__(self, branchless: bool) -> None:
        self.branchless = branchless

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        return ast.Pass()

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        x, y = self.visit(node.left), self.visit(node.right)
        if not (self.branchless and isinstance(node.op, ast.Div)):
            return ast.BinOp(x, node.op, y)
        if (number := literal_of(y)) and SMALLEST < abs(number) < 1 / SMALLEST:
            return ast.BinOp(x, ast.Mult(), ast.parse(f"real({1 / number!r})", mode="eval").body)
        return ast.Call(ast.Name("divide", ast.Load()), [x, y], [])

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
        return f"choose({condition}, {x}, {y})" if self.branchless else f"({x} if {condition} else {y})"


def literal_of(node: ast.expr) -> float:
    """The number of a literal, real(x); 0 for anything else."""
    match node:
        case ast.Call(ast.Name("real"), [ast.Constant(int() | float() as number)]):
            return float(number)
    return 0.0


def quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same of Python's ints, and silent beyond the domain of a function: hidden scores are computed, too."""

    def mod(*arguments: Any) -> Any:
        *score, b, h, i, j = arguments
        with np.errstate(all="ignore"):
            return function(*score, int(b), int(h), int(i), int(j))

    return mod


def read_mod(kind: str, function: Any, differentiated: bool = False) -> Mod | Refused | None:
    """What a caller gave for score_mod or mask_mod; None stays None, as what does nothing becomes, and a Mod itself."""
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


def does_nothing(mod: Mod) -> bool:
    """Is it `return score`, or `return True`?"""
    match mod.tree.body:
        case [ast.Return(ast.Name(name))]:
            return mod.kind == "score_mod" and name == mod.tree.args.args[0].arg
        case [ast.Return(ast.Constant(value))]:
            return mod.kind == "mask_mod" and value is True
    return False


def mod_of(kind: str, function: FunctionType | Mod, differentiated: bool) -> Mod | Refused | None:
    """A function as a mod, or why it cannot be one; None where it returns the score as it is, or shows every key."""
    try:
        if isinstance(function, Mod):
            mod = function
        else:
            tree = resolve(function, PARAMETERS[kind])
            mod = Mod(kind, ast.unparse(tree), function.__code__.co_filename, tree)
        definition(mod, differentiated)
        if does_nothing(mod):
            return None
    except ModError as error:
        return Refused(f"{kind}: {error}")
    return mod
