"""Functions for score_mod and mask_mod, drawn from a small grammar: smooth in the score, whole numbers for the rest."""

from __future__ import annotations

import itertools
import linecache
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from numba_flash.mods import PARAMETERS

numbered = itertools.count()


def choice(*templates: str, **parts: SearchStrategy[str]) -> SearchStrategy[str]:
    """One of some templates, filled with drawn expressions."""

    def filled(template: str) -> SearchStrategy[str]:
        names = [name for name in parts if f"{{{name}}}" in template]
        return st.tuples(*(st.tuples(parts[name], parts[name]) for name in names)).map(
            lambda drawn: template.format(
                **{name: pair[0] for name, pair in zip(names, drawn, strict=True)},
                **{f"{name}_": pair[1] for name, pair in zip(names, drawn, strict=True)},
            )
        )

    return st.sampled_from(templates).flatmap(filled)


NUMBERS = st.sampled_from(["0.5", "-1.25", "2", "3.0", "0.125"])
PLACES = choice(
    "{x}", "({x} - {x_})", "abs({x} - {x_})", "{x} // 2", "{x} % 3", "min({x}, {x_})", x=st.sampled_from("ijhb")
)  # fmt: skip
CONDITIONS = st.recursive(
    choice("{x} >= {x_}", "{x} % 3 == 1", "0 <= {x} - {x_} < 7", "{x} != {x_}", x=PLACES),
    lambda inner: choice("({c} and {c_})", "({c} or {c_})", "(({c}) & ({c_}))", "(not {c})", c=inner),
    max_leaves=4,
)
SCORES = st.recursive(
    st.just("score"),
    lambda inner: choice(
        "{n} * {s}", "({s} + {n} * {x})", "({s} - {x} / {n})", "math.tanh({s} / {n})", "math.sin({s})",
        "math.log1p({s} ** 2)", "{s} / (1 + {s_} ** 2)", "math.sqrt(1 + {s} * {s_})", "({s} if {c} else {s_})",
        "np.where({c}, {s}, {n} + {s_})",
        n=NUMBERS, s=inner, x=PLACES, c=CONDITIONS,
    ),
    max_leaves=4,
)  # fmt: skip


class Written:
    """A function that was made from its text, and shows it."""

    def __init__(self, kind: str, body: Sequence[str]) -> None:
        self.text = "\n    ".join([f"def {kind}({', '.join(PARAMETERS[kind])}):", *body]) + "\n"
        self.kind = kind

    def function(self) -> Callable[..., Any]:
        """The function; its text can be found as that of one in a file."""
        file = f"<drawn {next(numbered)}>"
        names: dict[str, Any] = {"math": math, "np": np}
        linecache.cache[file] = (len(self.text), None, self.text.splitlines(True), file)
        exec(compile(self.text, file, "exec"), names)
        return names[self.kind]

    def __repr__(self) -> str:
        return self.text


def score_mods() -> SearchStrategy[Written]:
    """A return, or a variable that depends on where the score lies."""
    returned = SCORES.map(lambda s: [f"return {s}"])
    branch = st.tuples(SCORES, CONDITIONS, SCORES).map(
        lambda x: [f"x = {x[0]}", f"if {x[1]}:", f"    x = {x[2].replace('score', 'x')}", "return x"]
    )
    return (returned | branch).map(lambda body: Written("score_mod", body))


def mask_mods() -> SearchStrategy[Written]:
    """A condition on i, j, h and b."""
    return CONDITIONS.map(lambda c: Written("mask_mod", [f"return {c}"]))
