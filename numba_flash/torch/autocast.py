"""torch.autocast for functions that torch does not know."""

from __future__ import annotations

from typing import Any

import torch


def autocast(*tensors: Any) -> tuple[Any, ...]:
    """The tensors as torch's own attention gets them: under torch.autocast in its dtype, all but float64."""
    device = tensors[0].device.type
    if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(x if x.dtype == torch.float64 else x.to(dtype) for x in tensors)
