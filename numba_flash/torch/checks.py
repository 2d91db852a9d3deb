"""What the functions for torch refuse before anything is launched; numba_flash checks the rest."""

from __future__ import annotations

from typing import Any

import torch

from numba_flash.ladder import BACKWARD, check_kernel
from numba_flash.problem import Reasons


def check_tensors(function: str, **operands: Any) -> None:
    """The operands are tensors."""
    for operand, x in operands.items():
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"{function}: {operand} is {type(x).__name__} (needs a torch.Tensor).")


def check_extra(function: str, **extra: Any) -> None:
    """Options are tensors or None, and none of them waits for a gradient."""
    for option, x in extra.items():
        if x is None:
            continue
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"{function}: {option} is {type(x).__name__} (needs a torch.Tensor or None).")
        if x.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"{function}: {option} requires grad, but only queries, keys and values get gradients in this version. "
                f"Pass {option}.detach(), or call under torch.no_grad()."
            )


def check_family(kernel: str) -> None:
    """A named kernel has a backward pass, too."""
    reasons = Reasons("flash_attention")
    check_kernel(reasons, BACKWARD, kernel)
    reasons.raise_if_any()


def refuse_recorded_mods(function: str, recorded: bool) -> None:
    """An operator in a graph has no place for a Python function."""
    if recorded:
        raise ValueError(
            f"{function}: score_mod and mask_mod cannot be recorded in a graph. Call the function that uses them under "
            "torch.compiler.disable."
        )


def check_dropout(function: str, dropout_p: float) -> None:
    """There is none."""
    if dropout_p != 0:
        raise ValueError(
            f"{function}: dropout_p={dropout_p} (needs 0.0): attention here is exact, and drops no weights. Set the "
            "model's attention dropout to 0, or call its eval() if it passes 0.0 then."
        )


def check_shape(function: str, operand: str, x: Any, needs: str, fits: bool) -> None:
    """An operand of another layout would be read in a wrong order, not refused."""
    if not fits:
        raise ValueError(f"{function}: {operand} has shape {tuple(x.shape)} (needs {needs}).")
