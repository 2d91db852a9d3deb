"""The functions that a mod may call: their names in a resolved mod, and the derivatives of those that have one."""

from __future__ import annotations

import builtins
import math
from typing import Any

import numpy as np

# Of one real x; in the derivative, an expression of the same functions.
DERIVATIVES = {
    "exp": "exp(x)",
    "exp2": "exp2(x) * 0.6931471805599453",
    "expm1": "exp(x)",
    "log": "1 / x",
    "log2": "1.4426950408889634 / x",
    "log10": "0.4342944819032518 / x",
    "log1p": "1 / (1 + x)",
    "sqrt": "0.5 / sqrt(x)",
    "sin": "cos(x)",
    "cos": "-sin(x)",
    "tan": "1 + tan(x) ** 2",
    "asin": "1 / sqrt(1 - x ** 2)",
    "acos": "-1 / sqrt(1 - x ** 2)",
    "atan": "1 / (1 + x ** 2)",
    "sinh": "cosh(x)",
    "cosh": "sinh(x)",
    "tanh": "1 - tanh(x) ** 2",
    "asinh": "1 / sqrt(x ** 2 + 1)",
    "acosh": "1 / sqrt(x ** 2 - 1)",
    "atanh": "1 / (1 - x ** 2)",
}
STEPS = ("floor", "ceil", "trunc")  # of one real; their derivative is 0 wherever they have one
NUMPY_NAMES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "asinh": "arcsinh", "acosh": "arccosh"}
NUMPY_NAMES |= {"atanh": "arctanh"}

# Of other arguments: `translate` knows each.
OTHERS: dict[str, tuple[Any, ...]] = {
    "abs": (builtins.abs, math.fabs, np.abs, np.fabs),
    "min": (builtins.min, np.minimum, np.fmin),
    "max": (builtins.max, np.maximum, np.fmax),
    "pow": (builtins.pow, math.pow, np.power),
    "where": (np.where,),
    "float": (builtins.float, np.float32, np.float64),
    "int": (builtins.int, np.int32, np.int64),
    "bool": (builtins.bool, np.bool_),
    "logical_and": (np.logical_and,),
    "logical_or": (np.logical_or,),
    "logical_not": (np.logical_not,),
    "range": (builtins.range,),
}
ONE_REAL = (*DERIVATIVES, *STEPS)
TAKEN = {
    *ONE_REAL,
    *OTHERS,
    "real",
    "whole",
    "choose",
    "divide",
    "breakpoint",
}  # names that mean something in a resolved mod


def spelled(name: str) -> list[Any]:
    """The functions of math and NumPy that a name of ONE_REAL stands for."""
    found = [getattr(math, name, None), getattr(np, name, None), getattr(np, NUMPY_NAMES.get(name, name), None)]
    return [function for function in found if function is not None]


KNOWN = {function: name for name in ONE_REAL for function in spelled(name)}
KNOWN |= {function: name for name, functions in OTHERS.items() for function in functions}


def numpy_function(name: str) -> Any:
    """What a name of ONE_REAL calls in plain Python: beyond its domain NumPy's gives NaN, as machine code does."""
    return getattr(np, NUMPY_NAMES.get(name, name))


def compiled_function(name: str) -> Any:
    """What it calls where numba compiles it."""
    return getattr(math, name, None) or getattr(np, name)
