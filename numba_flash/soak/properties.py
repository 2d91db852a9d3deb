"""The properties of a package of test modules, and the cases on which a worker tries them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

from hypothesis.strategies import SearchStrategy

from numba_flash.ladder import BACKWARD, FORWARD, LADDER, named
from numba_flash.problem import FLOATS
from numba_flash.testing import backends
from numba_flash.testing.backends import Backend
from numba_flash.testing.strategies import OPTIONS

SCORE_OPTIONS = {"softcap", "alibi", "bias", "mask", "hidden_rows"}
# Head dimensions that one set of kernels serves: those that are padded to 32, to 64 and to 128.
DEPTHS = ((1, 3, 7, 16, 20, 31, 32), (33, 40, 47, 61, 64), (65, 80, 96, 113, 128))
MAX_SCORES = 2**17


@dataclass(frozen=True)
class Property:
    """A test that `for_all` made: what must hold, and of which cases."""

    module: str
    name: str
    holds: Callable[[Backend, Any], None]
    cases: Callable[..., SearchStrategy[Any]]
    restrictions: Mapping[str, Any]

    @property
    def title(self) -> str:
        """As in `test_agreement.test_forward`."""
        return f"{self.module.rpartition('.')[2]}.{self.name}"

    def strategy(self, backend: Backend) -> SearchStrategy[Any] | None:
        """The cases of a backend that it is about; None if there are none."""
        common = {
            key: common_to(value, backend.sizes[key])
            if key in ("dtypes", "options") and key in backend.sizes
            else value
            for key, value in self.restrictions.items()
        }
        return None if common.get("dtypes") == () else self.cases(backend, **common)


def common_to(some: Collection[Any], others: Collection[Any]) -> tuple[Any, ...]:
    """What both have, in a fixed order."""
    return tuple(sorted(set(some) & set(others)))


def find_properties(folder: Path, only: Collection[str] = ()) -> list[Property]:
    """The properties of the package in a folder, file by file; `only`: parts of their titles."""
    if str(folder.parent) not in sys.path:
        sys.path.insert(0, str(folder.parent))
    found = []
    for path in sorted(folder.glob("test_*.py")):
        module = import_module(f"{folder.name}.{path.stem}")
        for name, test in vars(module).items():
            if name.startswith("test_") and hasattr(test, "holds") and test.__module__ == module.__name__:
                found.append(Property(module.__name__, name, test.holds, test.cases, test.restrictions))
    return [p for p in found if not only or any(part in p.title for part in only)]


def backend_named(name: str) -> Backend:
    """One of those in `numba_flash.testing.backends`."""
    return next(b for b in vars(backends).values() if isinstance(b, Backend) and b.name == name)


def with_kernel(backend: Backend, kernel: str) -> Backend:
    """The same with another rung or family of attention, and its gradients or else those of the newest flash2."""
    if not kernel:
        return backend
    (rung,) = named(FORWARD, kernel)
    backward = next((r.name for r in LADDER if (r.operation, r.family) == (BACKWARD, rung.family)), "")
    if set(rung.dtypes) < set(FLOATS):
        return backend.on_tensor_cores(rung.name, backward or "flash2_mma_backward")
    return replace(backend, kernel=rung.name, backward=backward)


def with_few_kernels(backend: Backend, seed: int) -> Backend:
    """A backend that compiles, for one worker: one dtype and one padded head dimension, with score options or without.

    These make another kernel, which takes seconds to compile; lengths, strides, positions and data do not. Workers
    with 24 consecutive seeds meet every combination once.
    """
    if not backend.sizes.get("few_kernels"):
        return backend
    choices = list(product(backend.sizes.get("dtypes", FLOATS), DEPTHS, (OPTIONS, OPTIONS - SCORE_OPTIONS)))
    dtype, depths, options = choices[7 * seed % len(choices)]
    narrowed: dict[str, Any] = {
        f.name: {**getattr(backend, f.name), "dtypes": (dtype,)} for f in fields(backend) if f.name.endswith("sizes")
    }
    narrowed["sizes"] |= {"depths": depths, "options": options, "max_scores": MAX_SCORES}
    return replace(backend, **narrowed)
