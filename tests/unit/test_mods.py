"""score_mod and mask_mod: what they may contain, what is made of them, and what is said of those that cannot be."""

import ast
import io
import math
import pdb
import re
import sys
from functools import partial
from unittest.mock import patch

import numpy as np
import pytest
from numba import njit

from numba_flash import flash_attention, flash_attention_backward
from numba_flash.mods import Mod, Refused, read_mod
from numba_flash.mods.functions import DERIVATIVES, STEPS
from numba_flash.mods.mod import ForMachines
from numba_flash.simulator import SIMULATED

PLACES = [(0, 0, 0, 0), (1, 2, 7, 3), (0, 1, 2, 9)]
SLOPES = (0.5, 0.25, 0.125)
WINDOW = 4


def square(x):
    return x * x


def near(i, j):
    """Whether two places are near one another."""
    return abs(i - j) < WINDOW


@njit
def compiled_square(x):
    return x * x


def softcap(score, b, h, i, j):
    return 3.0 * math.tanh(score / 3)


def alibi(score, b, h, i, j):
    return score - SLOPES[h] * abs(i - j)


def branches(score, b, h, i, j):
    if near(i, j) and not b:
        return score * 2
    elif i > j:
        x = square(score) / (1 + h)
    else:
        x = -score
    return x + 1


def loop(score, b, h, i, j):
    x, n = score, 0
    for n in range(1, 4):
        x += 0.25 * math.sin(n * x)
    return x - n


def running(score, b, h, i, j):
    x = 0.0
    for n in range(len(SLOPES)):
        x = x * 0.5 + score**n
        x *= 0.5
    return x


def extremes(score, b, h, i, j):
    return max(score, -0.2, 0.11 * i) + min(2 * score, 0.3 * score) - abs(score) + np.maximum(score, 0)


def powers(score, b, h, i, j):
    return score**3 + 2.0 ** (0.5 * score) - pow(score, 2) / score**-1 + (score % 2) + score // 2


def integers(score, b, h, i, j):
    n = (i << 1) ^ (j | 3) & ~h
    return score * (n % 5) + (-7 // (1 + i)) + int(score * 0) + float(j)


def logic(score, b, h, i, j):
    return np.where(np.logical_and(i > j, 0 <= i < 8) | (not near(i, j)), score, score * True) + (j if i else 0.5)


def compiled(score, b, h, i, j):
    return compiled_square(score)


def tables(score, b, h, i, j):
    return score * SLOPES[-1 - h] + (4, -2, 7)[j % 3] * (1 if (True, False)[b] else -1)


def tanh(score, b, h, i, j):
    return math.tanh(score)


SCORE_MODS = [
    tanh,
    tables,
    softcap,
    alibi,
    branches,
    running,
    extremes,
    powers,
    integers,
    logic,
    compiled,
    lambda s, b, h, i, j: s / 2,
]


def derivative(function, score, place, step=1e-6):
    """A central difference."""
    return (function(score + step, *place) - function(score - step, *place)) / (2 * step)


@pytest.mark.parametrize("function", SCORE_MODS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "for numba"])
def test_values_and_derivatives(function, compiled):
    mod = read_mod("score_mod", function, differentiated=True)
    value, both = mod.value("float64", compiled), mod.value_and_derivative("float64", compiled)
    if compiled:
        value, both = njit(value), njit(both)
    for place in PLACES:
        for score in (-1.3, 0.7, 2.45):
            assert value(np.float64(score), *place) == pytest.approx(function(score, *place), rel=1e-14)
            assert both(np.float64(score), *place) == pytest.approx(
                (function(score, *place), derivative(function, score, place)), rel=1e-7, abs=1e-8
            )


@pytest.mark.parametrize("name", sorted(DERIVATIVES))
@pytest.mark.parametrize("library", [math, np], ids=["math", "numpy"])
def test_derivatives_of_functions(name, library, tmp_path):
    numpy_names = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "asinh": "arcsinh", "acosh": "arccosh"}
    spelled = name if library is math else {**numpy_names, "atanh": "arctanh"}.get(name, name)
    called = getattr(library, spelled, None) or np.exp2
    mod = read_mod("score_mod", lambda score, b, h, i, j: called(score), differentiated=True)
    score = 1.5 if name == "acosh" else 0.4
    exact = derivative(lambda s: float(called(s)), score, ())
    assert mod.value_and_derivative("float64", False)(np.float64(score), 0, 0, 0, 0)[1] == pytest.approx(
        exact, rel=1e-8
    )


@pytest.mark.parametrize("name", STEPS)
def test_steps_have_no_slope(name):
    called = getattr(math, name)
    mod = read_mod("score_mod", lambda score, b, h, i, j: called(score) + score, differentiated=True)
    assert mod.value_and_derivative("float64", False)(np.float64(-2.5), 0, 0, 0, 0) == (called(-2.5) - 2.5, 1)


@pytest.mark.parametrize("function", SCORE_MODS, ids=lambda f: f.__name__)
def test_float32_stays_float32(function):
    mod = read_mod("score_mod", function, differentiated=True)
    results = njit(mod.value_and_derivative("float32"))(np.float32(0.7), 1, 2, 7, 3)
    compiled = njit(mod.value_and_derivative("float32"))
    compiled(np.float32(0.7), np.int32(1), np.int32(2), np.int32(7), np.int32(3))
    assert {str(t) for t in compiled.nopython_signatures[0].return_type} == {"float32"}
    plain = mod.value_and_derivative("float32", False)(np.float32(0.7), 1, 2, 7, 3)
    assert all(isinstance(x, np.float32) for x in plain)
    assert results == pytest.approx(plain, rel=1e-6)


def test_numbers_are_those_of_the_call():
    factor = 2.0

    def scaled(score, b, h, i, j):
        return factor * score

    first = read_mod("score_mod", scaled)
    factor = 3.0
    second = read_mod("score_mod", scaled)
    assert [mod.value("float64", False)(1.0, 0, 0, 0, 0) for mod in (first, second)] == [2, 3]
    assert first != second
    factor = 2.0
    assert read_mod("score_mod", scaled) == first and hash(read_mod("score_mod", scaled)) == hash(first)
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 3, 4))
    results = []
    for factor in (2.0, 3.0):
        results.append(flash_attention(q, k, v, score_mod=scaled, scale=1.0))
        np.testing.assert_allclose(results[-1], flash_attention(q, k, v, scale=factor), rtol=1e-12)


def test_functions_and_modules_are_those_of_the_call(monkeypatch):
    """Also where they belong to somebody else."""
    module = sys.modules[__name__]

    def by_module(score, b, h, i, j):
        return module.square(score) + module.WINDOW

    def value():
        return read_mod("score_mod", by_module).value("float64", False)(3.0, 0, 0, 0, 0)

    assert value() == 13
    monkeypatch.setattr(module, "WINDOW", 5)
    assert value() == 14
    monkeypatch.setattr(module, "square", near)
    assert isinstance(read_mod("score_mod", by_module), Refused)
    monkeypatch.setattr(module, "square", lambda x: -x)
    assert value() == 2
    factor = 3
    monkeypatch.setattr(module, "square", lambda x: factor * x)
    assert value() == 14
    factor = 4
    assert value() == 17


def test_what_does_nothing_is_none():
    def told(score, b, h, i, j):
        """It has a docstring."""
        return score

    assert read_mod("score_mod", told, differentiated=True) is None
    assert read_mod("mask_mod", lambda b, h, i, j: True) is None
    assert isinstance(read_mod("mask_mod", lambda b, h, i, j: False), Mod)
    assert isinstance(read_mod("score_mod", lambda score, b, h, i, j: b), Mod)


def test_light_mods():
    """One expression, whatever it calls, but no table."""

    def light(function):
        return read_mod("score_mod", function).light

    def told(score, b, h, i, j):
        """A docstring weighs nothing."""
        return math.tanh(score) - near(i, j)

    assert light(told)
    assert not light(lambda score, b, h, i, j: score * SLOPES[h])

    def two_lines(score, b, h, i, j):
        score = score * 2
        return score - i

    assert not light(two_lines)


def test_quotients_do_not_branch():
    """On a GPU an exact division branches, and one by a number is a product."""

    def told(score, b, h, i, j):
        return score / 20 + score / (1 + j) + score / 1e-40

    text = ast.unparse(ForMachines(True).visit(ast.parse(read_mod("score_mod", told).source())))
    assert "score * real(0.05) + divide(score, real(whole(1 + j))) + divide(score, real(1e-40))" in text


def test_a_function_is_read_once():
    read_mod("score_mod", branches, differentiated=True)
    with patch("numba_flash.mods.mod.resolve", side_effect=AssertionError):
        assert read_mod("score_mod", branches, differentiated=True).text.startswith("def branches(")
        with pytest.raises(AssertionError):
            read_mod("score_mod", branches)


def test_lambdas_on_one_line():
    first, second = (lambda s, b, h, i, j: s + 1), (lambda s, b, h, i, j: s + 2)
    found = [read_mod("score_mod", f) for f in (first, second)]
    if sys.version_info < (3, 11):
        assert all("several functions begin on its line" in refused.complaint for refused in found)
    else:
        assert [mod.value("float64", False)(0.0, 0, 0, 0, 0) for mod in found] == [1, 2]


def refused_score(wrong, differentiated=False):
    """What is said of a function (score, b, h, i, j)."""
    mod = read_mod("score_mod", wrong, differentiated)
    assert isinstance(mod, Refused)
    return mod.complaint


TABLE = np.arange(3.0)


def writes(score, b, h, i, j):
    TABLE[0] = score
    return score


def loops(score, b, h, i, j):
    while score > 1:
        score /= 2
    return score


def forgets(score, b, h, i, j):
    if i > j:
        return score


def several(score, b, h, i, j):
    x, y = score, 2 * score
    return x + y


def long(x):
    y = x + 1
    return y


def calls_long(score, b, h, i, j):
    return long(score)


REFUSED = [
    (lambda score, b, h, i: score, "it takes (score, b, h, i) (needs (score, b, h, i, j))", "lambda score, b, h, i:"),
    (lambda score, b, h, i, j=0: score, "its parameters need plain names, without defaults or *", "lambda score"),
    (
        lambda score, b, h, i, j: score + TABLE[i],
        "TABLE is a ndarray (a mod uses numbers and tuples of numbers)",
        "TABLE[i]",
    ),
    (lambda score, b, h, i, j: score + nothing, "nothing is not defined", "score + nothing"),  # noqa: F821
    (lambda score, b, h, i, j: print(score), "a mod cannot call print", "print(score)"),
    (lambda score, b, h, i, j: math.hypot(score, i), "a mod cannot call math.hypot", "math.hypot"),
    (
        lambda score, b, h, i, j: np.clip(score, a_min=0, a_max=1),
        "arguments of calls need their places, not names or *",
        "",
    ),
    (lambda score, b, h, i, j: "text", "'text' is no number", "text"),
    (lambda score, b, h, i, j: score & 1, "a mod cannot compute score & 1 of reals", "score & 1"),
    (lambda score, b, h, i, j: SLOPES[score], "an index is real (needs an int)", "SLOPES[score]"),
    (lambda score, b, h, i, j: max(score), "max() takes 2 or more arguments", "max(score)"),
    (lambda score, b, h, i, j: score.real, "a mod cannot use score.real", "score.real"),
    (lambda exp, b, h, i, j: math.exp(exp), "a variable of a mod cannot be called exp", "lambda exp"),
    (writes, "TABLE is a ndarray (a mod uses numbers and tuples of numbers)", "TABLE[0] = score"),
    (loops, "a mod cannot contain While", "while score > 1:"),
    (forgets, "it must return a value whichever way it goes", "def forgets(score, b, h, i, j):"),
    (calls_long, "long has more than a return: a mod can call functions of one expression", "def long(x):"),
]


@pytest.mark.parametrize(("wrong", "reason", "line"), REFUSED, ids=[reason[:24] for _, reason, _ in REFUSED])
def test_two_lines_say_what_is_wrong(wrong, reason, line):
    first, second = refused_score(wrong).split("\n")
    assert re.match(rf"score_mod: {re.escape(__file__)}:\d+: ", first) and line in first
    assert second == f"    {reason}"


def test_what_has_no_derivative():
    assert isinstance(read_mod("score_mod", several), Mod)
    assert refused_score(several, True).endswith("\n    no derivative is known of several variables at once")
    operands = [np.ones((1, 3, 4))] * 5 + [np.zeros((1, 3))]
    with pytest.raises(ValueError, match="no derivative is known of several variables at once"):
        flash_attention_backward(*operands, score_mod=several)


def test_other_refusals():
    assert "(needs a Python function of (b, h, i, j))" in read_mod("mask_mod", partial(near, 1)).complaint
    mask_mod = read_mod("mask_mod", lambda b, h, i, j: i - j)
    assert mask_mod.complaint.endswith("\n    a mask_mod returns True or False, not int")
    names = {}
    exec("def unread(score, b, h, i, j): return score", names)
    assert refused_score(names["unread"]) == (
        "score_mod: the source of unread cannot be read: define it in a file or a notebook"
    )


def test_older_rungs_take_none():
    q, k, v = np.ones((3, 1, 3, 4), np.float32)
    with pytest.raises(ValueError, match="score_mod needs flash2 or a later rung; mask_mod needs flash2"):
        options = {"score_mod": softcap, "mask_mod": lambda b, h, i, j: i > j}
        flash_attention(q, k, v, **options, kernel="attention_naive")


def test_leading_axes_count_as_one():
    q, k, v = np.random.default_rng(0).standard_normal((3, 2, 3, 1, 5, 4))

    def of_entry(score, b, h, i, j):
        return score * b

    o = flash_attention(q, k, v, score_mod=of_entry)
    for b in range(6):
        one = flash_attention(*(x[b // 3, b % 3] for x in (q, k, v)), scale=b / 2)
        np.testing.assert_allclose(o[b // 3, b % 3], one, rtol=1e-12)
    with pytest.raises(ValueError, match="need leading axes that one stride can pass through"):
        flash_attention(*(x.swapaxes(0, 1) for x in (q, k, v)), score_mod=of_entry)


def stopped(score, b, h, i, j):
    if i == 2 and j == 1:
        breakpoint()
    doubled = 2 * score
    return doubled


@pytest.mark.skipif(not SIMULATED, reason="kernels are Python in the simulator")
@pytest.mark.parametrize("kernel", ["flash2", "flash2_mma", "flash3"])
def test_a_debugger_steps_through_the_users_lines(kernel, monkeypatch):
    screen, script = io.StringIO(), "p 'at', i, j\nn\nn\np 'made', doubled == 2 * score\nc\n"

    def stop():
        debugger = pdb.Pdb(
            stdin=io.StringIO("n\n" * (sys.version_info >= (3, 13)) + script), stdout=screen, readrc=False
        )
        debugger.set_trace(sys._getframe(1))

    monkeypatch.setattr(sys, "breakpointhook", stop)
    q, k, v = np.ones((3, 1, 3, 8), np.float32 if kernel == "flash2" else np.float16)
    flash_attention(q, k, v, score_mod=stopped, kernel=kernel)
    seen = screen.getvalue()
    assert "('at', 2, 1)" in seen and "('made', " in seen
    assert "-> doubled = 2 * score" in seen and "-> return doubled" in seen and __file__ in seen
