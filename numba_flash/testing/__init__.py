"""Property-based tests of attention: hypothesis strategies, the tolerance rule, and where to run them; bank conflicts.

The strategies need hypothesis, the rest nothing: a name is imported when it is first used.
"""

from importlib import import_module
from typing import Any

SOURCES = {
    "backends": ("CPU", "GPU", "SIMULATOR", "Backend"),
    "banks": ("turns_to_load", "turns_to_store"),
    "case": ("Arrays", "Case"),
    "matmul": ("MatmulCase", "matmul_cases"),
    "naive": ("naive_attention", "naive_gradients", "naive_matmul", "naive_softmax"),
    "softmax": ("SoftmaxCase", "softmax_cases"),
    "strategies": ("attention_cases",),
    "tolerance": ("allowed_error", "assert_close", "rounding_floor"),
}
MODULE_OF = {name: module for module, names in SOURCES.items() for name in names}

__all__ = sorted(MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{MODULE_OF[name]}"), name)
