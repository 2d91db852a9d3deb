"""What the functions that stand in for another library's have in common."""

from __future__ import annotations

from typing import Any

import torch


def refuse_dropout(function: str, dropout_p: float) -> None:
    """There is none."""
    if dropout_p != 0:
        raise ValueError(
            f"{function}: dropout_p={dropout_p} (needs 0.0): attention here is exact, and drops no weights. Set the "
            "model's attention dropout to 0, or call its eval() if it passes 0.0 then."
        )


def autocast(*tensors: Any) -> tuple[Any, ...]:
    """The tensors as torch's own attention gets them: under torch.autocast in its dtype, all but float64."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(x if x.dtype == torch.float64 else x.to(dtype) for x in tensors)
