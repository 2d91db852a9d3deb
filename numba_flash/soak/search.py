"""One property, tried on random cases turn by turn until it fails."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis.errors import Flaky, Unsatisfiable, UnsatisfiedAssumption
from hypothesis.strategies import SearchStrategy

from numba_flash.soak.properties import Property
from numba_flash.testing.backends import Backend

SETTINGS = settings(
    database=None,
    deadline=None,
    derandomize=False,
    phases=[Phase.generate, Phase.shrink],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
    verbosity=Verbosity.quiet,
)
SHRINK_SECONDS = 30.0
TURN_SECONDS, LEAST, MOST = 5.0, 20, 500  # of a turn, and its examples; hypothesis starts each with simple ones


@dataclass(frozen=True)
class Failure:
    """A case in which a property does not hold, as small as it was found, and how to see it again."""

    property: str
    case: str
    error: str
    reproduce: str
    flaky: bool
    seed: int


class Search:
    """Counts the cases in which a property held; stops for good at one in which it does not.

    Shrinking a failing case goes on for a while after `until`; what is not tried for lack of time is not counted.
    """

    def __init__(self, what: Property, strategy: SearchStrategy[Any], backend: Backend, seed: int, until: float):
        self.what, self.strategy, self.backend, self.seed, self.until = what, strategy, backend, seed, until
        self.tried, self.turns = 0, 0
        self.rate = 0.0  # examples a second in the last turn
        self.failure: Failure | None = None
        self.skipped = ""
        self.smallest: tuple[Any, Exception] | None = None

    @property
    def over(self) -> bool:
        """Will further turns tell nothing?"""
        return bool(self.failure or self.skipped)

    def turn(self) -> None:
        """Some examples more, as many as take about TURN_SECONDS."""
        examples = min(MOST, max(LEAST, int(TURN_SECONDS * self.rate)))
        self.turns += 1
        start, before = time.time(), self.tried
        attempt = given(case=self.strategy)(lambda case: self.attempt(case))
        try:
            settings(SETTINGS, max_examples=examples)(seed(f"{self.seed} {self.what.title} {self.turns}")(attempt))()
        except Unsatisfiable:
            pass  # a turn in which no case was one that the property is about
        except pytest.skip.Exception as skip:
            self.skipped = str(skip)
        except Exception as error:
            self.failure = self.describe(error)
        self.rate = (self.tried - before) / (time.time() - start)

    def attempt(self, case: Any) -> None:
        """One example."""
        if time.time() > self.until and (self.smallest is None or case != self.smallest[0]):
            return
        try:
            self.what.holds(self.backend, case)
        except UnsatisfiedAssumption:
            raise
        except Exception as error:
            if self.smallest is None:
                self.until = time.time() + SHRINK_SECONDS
            self.smallest = case, error
            raise
        self.tried += 1

    def describe(self, raised: Exception) -> Failure:
        """The failure that hypothesis ended with, by the smallest case that failed."""
        case, error = self.smallest or (None, raised)
        text = f"{type(error).__name__}: {error}"
        return Failure(
            property=self.what.title,
            case=repr(case),
            error="\n".join(text.splitlines()[:12]),
            reproduce=self.script(case),
            flaky=isinstance(raised, Flaky),
            seed=self.seed,
        )

    def script(self, case: Any) -> str:
        """Python that tries the case again; the folder above the property's package must be on the path."""
        backend, name = self.backend.name.upper(), self.what.name
        lines = [
            f"from numba_flash.testing.backends import {backend}",
            f"from {type(case).__module__} import {type(case).__name__}",
            f"from {self.what.module} import {name}",
            f"{name}.holds({backend}, {case!r})",
        ]
        if self.backend.name == "simulator":
            lines[-1:] = ["from numba_flash.testing.tiles import tiny_tiles", f"with tiny_tiles():\n    {lines[-1]}"]
        return "\n".join(lines)
