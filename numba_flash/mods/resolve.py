"""Step 1: a mod's definition without names from outside, which become numbers and names of `functions`.

Of functions that it calls, those of one expression are put in the place of the call.
"""

from __future__ import annotations

import ast
import builtins
import copy
import inspect
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from numba_flash.mods.functions import KNOWN, TAKEN
from numba_flash.mods.source import DEEPEST, ModError, tree_of


def resolve(function: FunctionType, parameters: tuple[str, ...]) -> ast.FunctionDef:
    """The definition of a mod, with these names for its parameters and nothing from outside."""
    return Resolver(function).definition(parameters)


def outside(function: FunctionType) -> dict[str, Any]:
    """What a function's names from outside mean now."""
    closed = inspect.getclosurevars(function)
    return {**vars(builtins), **function.__globals__, **closed.nonlocals}


class Resolver(ast.NodeTransformer):
    """Puts what is known in the place of names: `bound` ones stay, or become the expressions they are bound to."""

    def __init__(self, function: FunctionType, depth: int = 0) -> None:
        self.function, self.depth, self.file = function, depth, function.__code__.co_filename
        self.tree, self.names = tree_of(function), outside(function)
        self.bound: dict[str, ast.expr] = {}

    def refuse(self, reason: str, node: ast.AST) -> ModError:
        return ModError(reason, node, self.file)

    def parameters(self) -> list[str]:
        """Its own names for its parameters."""
        a = self.tree.args
        if a.vararg or a.kwarg or a.kwonlyargs or a.defaults:
            raise self.refuse("its parameters need plain names, without defaults or *", self.tree)
        return [x.arg for x in (*a.posonlyargs, *a.args)]

    def definition(self, parameters: tuple[str, ...]) -> ast.FunctionDef:
        """The function, of parameters of these names."""
        own = self.parameters()
        if len(own) != len(parameters):
            raise self.refuse(f"it takes ({', '.join(own)}) (needs ({', '.join(parameters)}))", self.tree)
        locals_ = {node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name) and is_stored(node)}
        self.bound = {name: ast.Name(name, ast.Load()) for name in (*own, *locals_)}
        if taken := sorted(TAKEN.intersection(self.bound)):
            raise self.refuse(f"a variable of a mod cannot be called {taken[0]}", self.tree)
        tree = copy.deepcopy(self.tree)
        name, body = "mod", list[ast.stmt]()
        if isinstance(tree, ast.Lambda):
            body.append(ast.copy_location(ast.Return(tree.body), tree.body))
        else:
            name = tree.name if tree.name not in TAKEN else "mod"
            body = [line for line in tree.body if not is_text(line)] or tree.body
        arguments = ast.arguments([], [ast.arg(x) for x in own], None, [], [], None, [])
        made = ast.FunctionDef(name, arguments, [self.visit(statement) for statement in body], [])
        made.type_params = []  # type: ignore[attr-defined]
        return ast.fix_missing_locations(ast.copy_location(made, tree))

    def inlined(self, arguments: list[ast.expr]) -> ast.expr:
        """Its value for these arguments, as one expression."""
        own = self.parameters()
        if len(own) != len(arguments):
            raise self.refuse(
                f"{self.function.__name__} takes {len(own)} arguments, and gets {len(arguments)}", self.tree
            )
        body = self.tree.body
        if isinstance(body, list):
            lines = [line for line in body if not is_text(line)]
            if len(lines) != 1 or not isinstance(lines[0], ast.Return) or lines[0].value is None:
                reason = f"{self.function.__name__} has more than a return: a mod can call functions of one expression"
                raise self.refuse(reason, self.tree)
            body = lines[0].value
        self.bound = dict(zip(own, arguments, strict=True))
        return self.visit(copy.deepcopy(body))

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self.bound:
            if isinstance(node.ctx, ast.Store):
                return node
            return ast.copy_location(copy.deepcopy(self.bound[node.id]), node)
        return self.constant(self.value_of(node), node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        return self.constant(self.value_of(node), node)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if node.keywords or any(isinstance(x, ast.Starred) for x in node.args):
            raise self.refuse("arguments of calls need their places, not names or *", node)
        called = self.value_of(node.func)
        arguments = [self.visit(x) for x in node.args]
        if is_known(called):
            return ast.copy_location(ast.Call(ast.Name(KNOWN[called], ast.Load()), arguments, []), node)
        if called is builtins.len and len(arguments) == 1 and isinstance(arguments[0], ast.Tuple):
            return ast.copy_location(ast.Constant(len(arguments[0].elts)), node)
        called = getattr(called, "py_func", called)  # of a function that numba compiles
        if called is builtins.breakpoint:
            return ast.copy_location(ast.Call(ast.Name("breakpoint", ast.Load()), [], []), node)
        if not isinstance(called, FunctionType) or self.depth > DEEPEST:
            raise self.refuse(f"a mod cannot call {ast.unparse(node.func)}", node)
        return ast.copy_location(Resolver(called, self.depth + 1).inlined(arguments), node)

    def value_of(self, node: ast.expr) -> Any:
        """What a name or an attribute of a module means."""
        if isinstance(node, ast.Name) and not self.is_bound(node):
            if node.id in self.names:
                return self.names[node.id]
            raise self.refuse(f"{node.id} is not defined", node)
        if isinstance(node, ast.Attribute) and not self.is_bound(node.value):
            owner = self.value_of(node.value)
            if isinstance(owner, ModuleType) and hasattr(owner, node.attr):
                return getattr(owner, node.attr)
        raise self.refuse(f"a mod cannot use {ast.unparse(node)}", node)

    def is_bound(self, node: ast.expr) -> bool:
        """Is it a name that the function gives a value itself?"""
        return isinstance(node, ast.Name) and node.id in self.bound

    def constant(self, value: Any, node: ast.expr) -> ast.expr:
        """A number, or a tuple of numbers, from outside."""
        try:
            return ast.copy_location(literal(value), node)
        except TypeError:
            reason = f"{ast.unparse(node)} is a {type(value).__name__} (a mod uses numbers and tuples of numbers)"
            raise self.refuse(reason, node) from None


def literal(value: Any) -> ast.expr:
    """A number or a tuple of numbers as source; TypeError for anything else."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, tuple) and value:
        return ast.Tuple([literal(x) for x in value], ast.Load())
    if isinstance(value, bool | int | float):
        return ast.Constant(value)
    raise TypeError


def is_known(called: Any) -> bool:
    """Is it one of `functions`? Anything may have been called, even what has no hash."""
    try:
        return called in KNOWN
    except TypeError:
        return False


def is_stored(node: ast.Name) -> bool:
    """Does the name get a value here?"""
    return isinstance(node.ctx, ast.Store)


def is_text(node: ast.stmt) -> bool:
    """Is it a docstring?"""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
