"""The cache's modules made anew, without the rest of the package and its compilers, and mutants of their source."""

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import patch

ROOT = Path(__file__).parents[2]
MODULES = ("binary", "environment", "cached_files", "cache")  # in the order in which they import one another


@dataclass(frozen=True)
class Mutant:
    """One piece of a module's source is replaced, and a check must notice it."""

    name: str
    module: str
    old: str
    new: str
    killed_by: Callable | None = None

    def apply(self, source):
        """The mutated source; the piece to replace must occur in it exactly once."""
        if source.count(self.old) != 1:
            raise LookupError(f"{self.name}: {self.old!r} occurs {source.count(self.old)} times in {self.module}")
        return source.replace(self.old, self.new)


def made(mutant=None):
    """What the four modules define, in one namespace; of this checkout, or with a mutant's piece replaced."""
    names = SimpleNamespace()
    others = {name: module for name, module in sys.modules.items() if name.split(".")[0] != "numba_flash"}
    with patch.dict(sys.modules, others, clear=True):
        for package in ("numba_flash", "numba_flash.runtime"):
            sys.modules[package] = ModuleType(package)
            sys.modules[package].__path__ = [str(ROOT.joinpath(*package.split(".")))]
        for name in MODULES:
            module = importlib.import_module(f"numba_flash.runtime.{name}")
            if mutant and name == mutant.module:
                exec(compile(mutant.apply(Path(module.__file__).read_text()), module.__file__, "exec"), vars(module))
            vars(names).update({k: v for k, v in vars(module).items() if not k.startswith("__")}, **{name: module})
    return names


def a_binary(c, seed=0, size=500):
    """A compiled kernel that differs with the seed."""
    return c.Binary(bytes([seed]) * size, f"kernel_{seed}", 32 + seed, 1024, 0, 8, 4)


def settle(folder, mib="512"):
    """Use this folder for the cache, in this process."""
    os.environ["NUMBA_FLASH_CACHE_DIR"] = str(folder)
    os.environ["NUMBA_FLASH_CACHE_SIZE"] = mib
