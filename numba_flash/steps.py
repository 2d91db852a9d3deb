"""What a planned call is made of: launches, and what the host does itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numba_flash.arrays import Array
from numba_flash.runtime import Launch


@dataclass(frozen=True)
class Fill:
    """Set every element of a result."""

    array: Array
    value: float


@dataclass(frozen=True)
class HostCall:
    """Call a function of the CPU path."""

    function: Callable[..., None]
    args: tuple[Any, ...]


Step = Fill | HostCall | Launch
