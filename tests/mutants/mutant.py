"""Wrong kernels: a line of a module's source is replaced, and the module and the kernels that use it are made anew."""

import sys
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from inspect import getsource
from types import ModuleType
from unittest.mock import patch

from numba_flash.simulator.options import Landing
from numba_flash.testing.tiles import other_plans

# The pages that use what mutants change, and the rungs that use passes; in the order in which they import one another.
KERNELS = (
    "rungs.passes.delta",
    "rungs.flash1_backward",
    "rungs.flash2_backward",
    "rungs.passes.rows",
    "rungs.passes.collect",
    "rungs.flash2_mma_backward",
    "rungs.flash3_backward",
    "rungs.flash3_forward",
    "device.scores",
    "device.gradients",
    "kernels.matmul_registers",
    "kernels.matmul_mma",
    "kernels.passes.delta",
    "kernels.passes.convert",
    "kernels.attention_naive",
    "kernels.attention_two_pass",
    "kernels.attention_one_pass",
    "kernels.flash1_forward",
    "kernels.flash1_backward",
    "kernels.flash2_forward",
    "kernels.flash2_backward",
    "kernels.passes.rows",
    "kernels.passes.collect",
    "kernels.passes.clear",
    "kernels.flash2_mma_forward",
    "kernels.flash2_mma_backward",
    "kernels.matmul_wgmma",
    "kernels.flash3_backward",
    "kernels.flash3_forward",
)


@dataclass(frozen=True)
class Mutant:
    """A module in which one piece of source is replaced, and the property that must notice it.

    `landing`: when asynchronous copies land, as in `simulator.options`.
    """

    name: str
    module: str
    old: str
    new: str
    killed_by: Callable
    landing: Landing = "late"

    def apply(self, source):
        """The mutated source; the piece to replace must occur in it exactly once."""
        if source.count(self.old) != 1:
            raise LookupError(f"{self.name}: {self.old!r} occurs {source.count(self.old)} times in {self.module}")
        return source.replace(self.old, self.new)

    @contextmanager
    def alive(self):
        """The package's kernels are this mutant's."""
        with other_plans(), ExitStack() as stack:
            for name in dict.fromkeys((self.module, *KERNELS)):
                original = import_module(f"numba_flash.{name}")
                source = getsource(original)
                replica = ModuleType(original.__name__)
                stack.enter_context(installed(replica))
                exec(compile(self.apply(source) if name == self.module else source, name, "exec"), vars(replica))
            yield


@contextmanager
def installed(module):
    """Imports find this module, and so does its package."""
    package, _, child = module.__name__.rpartition(".")
    with patch.dict(sys.modules, {module.__name__: module}), patch.object(sys.modules[package], child, module):
        yield
