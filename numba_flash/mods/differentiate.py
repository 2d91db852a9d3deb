"""Step 2: from a resolved score_mod the function of its value and of its derivative by the score.

Paper     Griewank and Walther 2008, Evaluating Derivatives, chapter 3: the forward mode
Why       A score_mod is one real function of one real number, so one pass forward, in which each expression carries
          its derivative along, costs as much as the value and needs no tape. It is exact: each rule is one of calculus,
          not a difference. It is done to the source and not by a number type, so the same lines run compiled on a GPU,
          compiled on a CPU, and under a debugger, and what the derivative is can be printed.
Rules     Where a function has a corner or a step it takes the side that it computes: of `if`, `min`, `max` and `where`
          the branch that was chosen, of `abs` the sign, 0 at 0; floor, ceil, int and comparisons have none: 0
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable

from numba_flash.mods.functions import DERIVATIVES, STEPS
from numba_flash.mods.source import ModError


def differentiate(tree: ast.FunctionDef, file: str) -> ast.FunctionDef:
    """The same function, returning (value, derivative by its first parameter)."""
    return Differentiation(tree, file).definition()


def expression(template: str, **parts: ast.expr) -> ast.expr:
    """A template's expression with copies of `parts` in the place of names."""

    class Fill(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            return copy.deepcopy(parts[node.id]) if node.id in parts else node

    return Fill().visit(ast.parse(template, mode="eval").body)


class Differentiation:
    """The rules. A derivative is an expression, or None where it is zero whatever the score."""

    def __init__(self, tree: ast.FunctionDef, file: str) -> None:
        self.tree, self.file = tree, file
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        self.prefix = "d_"
        while any(name.startswith(self.prefix) for name in names):
            self.prefix += "_"
        self.score = tree.args.args[0].arg
        self.active = {self.score}
        self.find_active()

    def find_active(self) -> None:
        """Which variables depend on the score, however often a loop runs."""
        while True:
            before = len(self.active)
            for node in ast.walk(self.tree):
                if isinstance(node, ast.Assign | ast.AugAssign) and self.of(node.value) is not None:
                    self.active.add(self.target(node))
            if len(self.active) == before:
                return

    def definition(self) -> ast.FunctionDef:
        """The whole function: derivatives of variables start at zero, that of the score at one."""
        made = copy.deepcopy(self.tree)
        starts = [f"{self.prefix}{name} = {float(name == self.score)}" for name in sorted(self.active)]
        first = made.body[0]
        begun = [ast.copy_location(ast.parse(line).body[0], first) for line in starts]
        made.body = begun + self.block(made.body)
        return ast.fix_missing_locations(made)

    def block(self, body: list[ast.stmt]) -> list[ast.stmt]:
        """Statements, each with what it does to derivatives."""
        return [ast.copy_location(new, old) for old in body for new in self.statement(old)]

    def statement(self, node: ast.stmt) -> list[ast.stmt]:
        if isinstance(node, ast.Return) and node.value is not None:
            slope = self.of(node.value) or ast.Constant(0.0)
            return [ast.Return(ast.Tuple([node.value, slope], ast.Load()))]
        if isinstance(node, ast.AugAssign):
            name = self.target(node)
            value = ast.copy_location(ast.BinOp(ast.Name(name, ast.Load()), node.op, node.value), node)
            return self.statement(ast.copy_location(ast.Assign([node.target], value), node))
        if isinstance(node, ast.Assign) and self.target(node) in self.active:
            slope = ast.copy_location(self.of(node.value) or ast.Constant(0.0), node)
            names: list[ast.expr] = [
                ast.Name(f"{prefix}{self.target(node)}", ast.Store()) for prefix in (self.prefix, "")
            ]
            return [ast.Assign([ast.Tuple(names, ast.Store())], ast.Tuple([slope, node.value], ast.Load()))]
        if isinstance(node, ast.If | ast.For):
            node.body, node.orelse = self.block(node.body), self.block(node.orelse)
        return [node]

    def of(self, node: ast.expr) -> ast.expr | None:
        """The derivative of an expression."""
        made = self.derivative(node)
        return None if made is None else ast.copy_location(made, node)

    def derivative(self, node: ast.expr) -> ast.expr | None:
        if isinstance(node, ast.Name):
            return ast.Name(f"{self.prefix}{node.id}", ast.Load()) if node.id in self.active else None
        if isinstance(node, ast.UnaryOp):
            inner = None if isinstance(node.op, ast.Not) else self.of(node.operand)
            return None if inner is None else ast.UnaryOp(node.op, inner)
        if isinstance(node, ast.IfExp):
            return self.chosen(node.test, node.body, node.orelse)
        if isinstance(node, ast.BinOp):
            return self.of_operation(node)
        if isinstance(node, ast.Call):
            return self.of_call(node)
        return None  # numbers, comparisons and what is made of them

    def chosen(self, test: ast.expr, body: ast.expr, orelse: ast.expr) -> ast.expr | None:
        """The derivative of the branch that is taken."""
        left, right = self.of(body), self.of(orelse)
        if left is None and right is None:
            return None
        return ast.IfExp(copy.deepcopy(test), left or ast.Constant(0.0), right or ast.Constant(0.0))

    def of_operation(self, node: ast.BinOp) -> ast.expr | None:
        x, y, dx, dy = node.left, node.right, self.of(node.left), self.of(node.right)
        if dx is None and dy is None:
            return None
        if isinstance(node.op, ast.Add | ast.Sub):
            return self.sum(("dx", "dy" if isinstance(node.op, ast.Add) else "-dy"), dx, dy)
        if isinstance(node.op, ast.Pow):
            return self.of_power(x, y, dx, dy)
        rules = {
            ast.Mult: ("dx * y", "x * dy"),
            ast.Div: ("dx / y", "-x * dy / y ** 2"),
            ast.Mod: ("dx", "-(x // y) * dy"),
        }
        if type(node.op) not in rules:
            if isinstance(node.op, ast.FloorDiv):
                return None
            raise self.refuse(ast.unparse(node), node)
        return self.sum(rules[type(node.op)], dx, dy, x=x, y=y)

    def of_power(self, x: ast.expr, y: ast.expr, dx: ast.expr | None, dy: ast.expr | None) -> ast.expr | None:
        """Of x ** y; the exponent is most often a number."""
        if isinstance(y, ast.Constant) and isinstance(y.value, int | float):
            n = y.value
            return self.sum(("2 * x * dx" if n == 2 else f"{n} * x ** {n - 1} * dx", ""), dx, None, x=x)
        return self.sum(("y * x ** (y - 1) * dx", "x ** y * log(x) * dy"), dx, dy, x=x, y=y)

    def sum(
        self, rules: tuple[str, str], dx: ast.expr | None, dy: ast.expr | None, **parts: ast.expr
    ) -> ast.expr | None:
        """What either operand contributes by its rule, and what is not zero of it."""
        terms = [(rules[0], "dx", dx), (rules[1], "dy", dy)]
        made = [expression(rule, **parts, **{name: d}) for rule, name, d in terms if d is not None]
        return ast.BinOp(made[0], ast.Add(), made[1]) if len(made) > 1 else made[0] if made else None

    def of_call(self, node: ast.Call) -> ast.expr | None:
        assert isinstance(node.func, ast.Name)
        name, arguments = node.func.id, node.args
        slopes = [self.of(x) for x in arguments]
        if all(dx is None for dx in slopes) or name in (*STEPS, "int", "bool"):
            return None
        if name in DERIVATIVES:
            (x,), (dx,) = arguments, slopes
            assert dx is not None
            return ast.BinOp(expression(DERIVATIVES[name], x=x), ast.Mult(), dx)
        if name == "where":
            return self.chosen(*arguments)
        if name in ("min", "max"):
            return self.of_extreme(name, arguments)
        rules: dict[str, Callable[[], ast.expr | None]] = {
            "abs": lambda: self.chosen(*parsed_abs(arguments[0])),
            "float": lambda: slopes[0],
            "pow": lambda: self.of_power(*arguments, *slopes),
        }
        if name not in rules:
            raise self.refuse(f"{name}()", node)
        return rules[name]()

    def of_extreme(self, name: str, arguments: list[ast.expr]) -> ast.expr | None:
        """Of the least or the greatest of some numbers: of the first that it is."""
        x, *others = arguments
        if not others:
            return self.of(x)
        rest: ast.expr = others[0] if len(others) == 1 else ast.Call(ast.Name(name, ast.Load()), others, [])
        return self.chosen(expression("x <= y" if name == "min" else "x >= y", x=x, y=rest), x, rest)

    def target(self, node: ast.Assign | ast.AugAssign) -> str:
        """The name of the variable that gets a value."""
        place = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if not isinstance(place, ast.Name):
            raise self.refuse("several variables at once", node)
        return place.id

    def refuse(self, what: str, node: ast.AST) -> ModError:
        return ModError(f"no derivative is known of {what}", node, self.file)


def parsed_abs(x: ast.expr) -> tuple[ast.expr, ast.expr, ast.expr]:
    """|x| as a choice; at 0 its derivative is 0."""
    zero = expression("x * 0.0", x=x)
    return expression("x > 0", x=x), x, ast.IfExp(expression("x < 0", x=x), expression("-x", x=x), zero)
