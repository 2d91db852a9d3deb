"""Step 3: every expression of a mod gets a kind, and is computed in the dtype that the kernel computes in.

Python's rules would make float64 of most mods: numba computes int * float32 in it, and a literal is one. Here what is
real is `real`, the dtype of arithmetic: an int beside a real becomes one, and so does a literal. What is computed of
ints is a `whole`, of 32 bits where it is compiled: numba's 64 take twice the registers.
"""

from __future__ import annotations

import ast
from typing import Any

import numpy as np

from numba_flash.mods.functions import ONE_REAL, compiled_function, numpy_function
from numba_flash.mods.source import ModError

BOOL, INT, REAL = range(3)  # kinds; of two, the later one holds both
KINDS = ("bool", "int", "real")
LOGICAL = (ast.BitAnd, ast.BitOr, ast.BitXor)
SHIFTS = (ast.LShift, ast.RShift)
Typed = tuple[ast.expr, int]


def name(text: str) -> ast.Name:
    return ast.Name(text, ast.Load())


def call(function: str, *arguments: ast.expr) -> ast.expr:
    return ast.Call(name(function), list(arguments), [])


def whole(node: ast.expr, kind: int) -> Typed:
    """An expression computed in a kind."""
    return (call("whole", node) if kind == INT else node), kind


def cast(x: Typed, kind: int) -> ast.expr:
    """An expression as one of this kind."""
    node, own = x
    if own == kind:
        return node
    if kind == BOOL:
        return ast.Compare(node, [ast.NotEq()], [ast.Constant(0)])
    return call("real" if kind == REAL else "whole", node)


def translate(tree: ast.FunctionDef, result: int, file: str) -> ast.FunctionDef:
    """A resolved definition whose every number has its kind; it returns one `result`, or a tuple of them.

    Raises
    ------
    ModError
        For what a mod cannot contain.
    """
    return Translation(tree, result, file).definition()


class Translation:
    """The kinds of a function's variables, and its expressions with theirs."""

    def __init__(self, tree: ast.FunctionDef, result: int, file: str) -> None:
        self.tree, self.result, self.file = tree, result, file
        parameters = [x.arg for x in tree.args.args]
        self.kinds = dict.fromkeys(parameters, INT)
        if result == REAL:
            self.kinds[parameters[0]] = REAL

    def refuse(self, reason: str, node: ast.AST) -> ModError:
        return ModError(reason, node, self.file)

    def definition(self) -> ast.FunctionDef:
        """The function, once no variable's kind changes any more."""
        before: dict[str, int] = {}
        body: list[ast.stmt] = []
        while before != self.kinds:
            before = dict(self.kinds)
            body = self.block(self.tree.body)
        if not returns(self.tree.body):
            raise self.refuse("it must return a value whichever way it goes", self.tree)
        made = ast.FunctionDef(self.tree.name, self.tree.args, body, [])
        made.type_params = []  # type: ignore[attr-defined]
        return ast.fix_missing_locations(ast.copy_location(made, self.tree))

    def block(self, body: list[ast.stmt]) -> list[ast.stmt]:
        made = ((new, old) for old in body if (new := self.statement(old)) is not None)
        return [ast.copy_location(new, old) for new, old in made] or [ast.Pass()]

    def statement(self, node: ast.stmt) -> ast.stmt | None:
        """One statement; None for a text."""
        if isinstance(node, ast.Return) and node.value is not None:
            values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
            made = [self.returned(x) for x in values]
            return ast.Return(ast.Tuple(made, ast.Load()) if isinstance(node.value, ast.Tuple) else made[0])
        if isinstance(node, ast.AugAssign):
            value = ast.copy_location(ast.BinOp(self.variable(node.target), node.op, node.value), node)
            node = ast.copy_location(ast.Assign([node.target], value), node)
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            return self.assignment(node, node.targets[0])
        if isinstance(node, ast.If):
            body, orelse = self.block(node.body), self.block(node.orelse) if node.orelse else []
            return ast.If(self.condition(node.test), body, orelse)
        if isinstance(node, ast.For) and not node.orelse:
            return self.loop(node)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant | ast.Call):
            return self.breakpoint(node)
        if isinstance(node, ast.Pass):
            return node
        raise self.refuse(f"a mod cannot contain {type(node).__name__}", node)

    def returned(self, node: ast.expr) -> ast.expr:
        made, kind = self.expression(node)
        if self.result == BOOL and kind != BOOL:
            raise self.refuse(f"a mask_mod returns True or False, not {KINDS[kind]}", node)
        return ast.copy_location(cast((made, kind), self.result), node)

    def breakpoint(self, node: ast.Expr) -> ast.stmt | None:
        if isinstance(node.value, ast.Constant):
            return None
        if isinstance(node.value.func, ast.Name) and node.value.func.id == "breakpoint":  # type: ignore[attr-defined]
            return node
        raise self.refuse("this does nothing in a mod", node)

    def variable(self, node: ast.expr) -> ast.expr:
        if not isinstance(node, ast.Name):
            raise self.refuse(f"a mod cannot write to {ast.unparse(node)}", node)
        return ast.copy_location(name(node.id), node)

    def assignment(self, node: ast.Assign, to: ast.expr) -> ast.stmt:
        if isinstance(to, ast.Tuple) and isinstance(node.value, ast.Tuple) and len(to.elts) == len(node.value.elts):
            pairs = [self.assigned(x, self.expression(y)) for x, y in zip(to.elts, node.value.elts, strict=True)]
            targets, values = ([pair[n] for pair in pairs] for n in (0, 1))
            return ast.Assign([ast.Tuple(targets, ast.Store())], ast.Tuple(values, ast.Load()))
        target, value = self.assigned(to, self.expression(node.value))
        return ast.Assign([target], value)

    def assigned(self, to: ast.expr, value: Typed) -> tuple[ast.expr, ast.expr]:
        """A variable, whose kind holds all that is assigned to it, and the value as such."""
        variable = self.variable(to)
        assert isinstance(variable, ast.Name)
        kind = self.kinds[variable.id] = max(value[1], self.kinds.get(variable.id, BOOL))
        return ast.Name(variable.id, ast.Store()), cast(value, kind)

    def loop(self, node: ast.For) -> ast.stmt:
        source = node.iter
        if not (isinstance(source, ast.Call) and isinstance(source.func, ast.Name) and source.func.id == "range"):
            raise self.refuse("a mod's loops are over range(...)", node)
        limits = [self.integer(x, "a limit of range") for x in source.args]
        target, _ = self.assigned(node.target, (name("range"), INT))
        return ast.For(target, call("range", *limits), self.block(node.body), [])

    def integer(self, node: ast.expr, what: str) -> ast.expr:
        made, kind = self.expression(node)
        if kind == REAL:
            raise self.refuse(f"{what} is real (needs an int)", node)
        return cast((made, kind), INT)

    def condition(self, node: ast.expr) -> ast.expr:
        return cast(self.expression(node), BOOL)

    def expression(self, node: ast.expr) -> Typed:
        """An expression and its kind."""
        method = getattr(self, f"of_{type(node).__name__}", None)
        if method is None:
            raise self.refuse(f"a mod cannot contain {ast.unparse(node)}", node)
        made, kind = method(node)
        return ast.copy_location(made, node), kind

    def of_Constant(self, node: ast.Constant) -> Typed:  # noqa: N802
        if isinstance(node.value, bool):
            return node, BOOL
        if isinstance(node.value, int):
            return node, INT
        if isinstance(node.value, float):
            return call("real", node), REAL
        raise self.refuse(f"{node.value!r} is no number", node)

    def of_Name(self, node: ast.Name) -> Typed:  # noqa: N802
        return name(node.id), self.kinds.get(node.id, BOOL)  # not assigned yet, in this round: the least

    def of_UnaryOp(self, node: ast.UnaryOp) -> Typed:  # noqa: N802
        x = self.expression(node.operand)
        if isinstance(node.op, ast.Not) or (isinstance(node.op, ast.Invert) and x[1] == BOOL):
            return ast.UnaryOp(ast.Not(), cast(x, BOOL)), BOOL
        kind = max(x[1], INT)
        if isinstance(node.op, ast.Invert) and kind == REAL:
            raise self.refuse("~ of a real", node)
        return whole(ast.UnaryOp(node.op, cast(x, kind)), kind)

    def of_BoolOp(self, node: ast.BoolOp) -> Typed:  # noqa: N802
        return ast.BoolOp(node.op, [self.condition(x) for x in node.values]), BOOL

    def of_Compare(self, node: ast.Compare) -> Typed:  # noqa: N802
        if any(isinstance(op, ast.Is | ast.IsNot | ast.In | ast.NotIn) for op in node.ops):
            raise self.refuse(f"a mod cannot contain {ast.unparse(node)}", node)
        values = [self.expression(x) for x in (node.left, *node.comparators)]
        kind = max(INT, *(own for _, own in values))
        left, *others = (cast(x, kind) for x in values)
        return ast.Compare(left, node.ops, others), BOOL

    def of_IfExp(self, node: ast.IfExp) -> Typed:  # noqa: N802
        return self.choice(node.test, node.body, node.orelse)

    def choice(self, test: ast.expr, body: ast.expr, orelse: ast.expr) -> Typed:
        (left, right), kind = self.alike(body, orelse)
        return ast.IfExp(self.condition(test), left, right), kind

    def alike(self, *nodes: ast.expr, least: int = BOOL) -> tuple[list[ast.expr], int]:
        """Expressions of one kind, the smallest that holds all of them."""
        typed = [self.expression(node) for node in nodes]
        kind = max(least, *(own for _, own in typed))
        return [cast(x, kind) for x in typed], kind

    def of_BinOp(self, node: ast.BinOp) -> Typed:  # noqa: N802
        op = node.op
        if isinstance(op, ast.Pow):
            return self.power(node.left, node.right)
        least = BOOL if isinstance(op, LOGICAL) else REAL if isinstance(op, ast.Div) else INT
        (left, right), kind = self.alike(node.left, node.right, least=least)
        if kind == REAL and isinstance(op, (*LOGICAL, *SHIFTS)) or isinstance(op, ast.MatMult):
            raise self.refuse(f"a mod cannot compute {ast.unparse(node)} of reals", node)
        return whole(ast.BinOp(left, op, right), kind)

    def power(self, base: ast.expr, exponent: ast.expr) -> Typed:
        """A square is a product; everything else is a power of reals."""
        if isinstance(exponent, ast.Constant) and exponent.value == 2:
            (x,), kind = self.alike(base, least=INT)
            return whole(ast.BinOp(x, ast.Mult(), x), kind)
        left, right = (cast(self.expression(x), REAL) for x in (base, exponent))
        return call("real", ast.BinOp(left, ast.Pow(), right)), REAL

    def of_Subscript(self, node: ast.Subscript) -> Typed:  # noqa: N802
        if not isinstance(node.value, ast.Tuple):
            raise self.refuse(f"a mod cannot read {ast.unparse(node)} (only tuples of numbers)", node)
        elements, kind = self.alike(*node.value.elts)
        elements = [whole(x, kind)[0] for x in elements]
        return ast.Subscript(ast.Tuple(elements, ast.Load()), self.integer(node.slice, "an index"), ast.Load()), kind

    def of_Call(self, node: ast.Call) -> Typed:  # noqa: N802
        assert isinstance(node.func, ast.Name)
        function, arguments = node.func.id, node.args
        counts = {
            "min": (2, 99),
            "max": (2, 99),
            "where": (3, 3),
            "pow": (2, 2),
            "logical_and": (2, 2),
            "logical_or": (2, 2),
        }
        least, most = counts.get(function, (1, 1))
        if not least <= len(arguments) <= most:
            raise self.refuse(f"{function}() takes {least if least == most else f'{least} or more'} arguments", node)
        if function in ONE_REAL:
            return call("real", call(function, cast(self.expression(arguments[0]), REAL))), REAL
        if function in ("float", "int", "bool"):
            kind = {"float": REAL, "int": INT, "bool": BOOL}[function]
            return cast(self.expression(arguments[0]), kind), kind
        if function in ("min", "max", "abs"):
            made, kind = self.alike(*arguments, least=INT)
            return whole(call(function, *made), kind)
        if function == "where":
            return self.choice(*arguments)
        if function == "pow":
            return self.power(*arguments)
        if function.startswith("logical_"):
            conditions = [self.condition(x) for x in arguments]
            if function == "logical_not":
                return ast.UnaryOp(ast.Not(), *conditions), BOOL
            return ast.BoolOp(ast.And() if function == "logical_and" else ast.Or(), conditions), BOOL
        raise self.refuse(f"{function}() cannot stand here", node)


def returns(body: list[ast.stmt]) -> bool:
    """Does every way through these statements return?"""
    last = body[-1]
    return isinstance(last, ast.Return) or (
        isinstance(last, ast.If) and bool(last.orelse) and returns(last.body) and returns(last.orelse)
    )


def names_for(real: str, numpy: bool) -> dict[str, Any]:
    """What the names of a translated function mean, for numba or for plain Python."""
    function = numpy_function if numpy else compiled_function
    return {"real": np.dtype(real).type, "whole": int if numpy else np.int32, **{x: function(x) for x in ONE_REAL}}
