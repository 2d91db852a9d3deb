"""numba's CUDA simulator made deterministic and fast.

With NUMBA_ENABLE_CUDASIM=1 in the environment, importing this package puts its scheduler under `numba.cuda`: the
threads of a block are greenlets that take turns in a fixed order, so that a race is the same wrong number every time,
and a divergent barrier or a hang is an error that names the threads. Otherwise importing it costs nothing, and calling
into it is an error.

In pdb, `next` steps over a barrier and stays in its thread.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NoReturn

from .errors import Deadlock, DivergentBarrier, MemoryFault


def enabled() -> bool:
    """Is numba's CUDA simulator on?"""
    if os.environ.get("NUMBA_ENABLE_CUDASIM", "0") in ("", "0"):
        return False
    from numba import config

    return bool(config.ENABLE_CUDASIM)


SIMULATED = enabled()

if TYPE_CHECKING or SIMULATED:
    from . import phase_barriers, register_pool, tensor_copies, warpgroup
    from .async_proxy import BASE, fence_shared
    from .collectives import exchange, exchange_block, exchange_group, exchange_warp
    from .counting import count_traffic
    from .gate import Gate, park
    from .install import install
    from .launch import launch
    from .named_barriers import arrive
    from .options import options
    from .pointer import Pointer
    from .thread import Thread, current
    from .turns import wait_for_number
    from .vectors import copy_vector, load_vector, locate_vector, store_vector
    from .window import shared_window

    install()
else:

    def _off(*args: Any, **keywords: Any) -> NoReturn:
        raise RuntimeError("the simulator is off: set NUMBA_ENABLE_CUDASIM=1 before numba is first imported")

    exchange = exchange_block = exchange_group = exchange_warp = launch = options = park = Gate = Pointer = _off
    Thread = current = copy_vector = count_traffic = load_vector = locate_vector = store_vector = shared_window = _off
    arrive = fence_shared = phase_barriers = register_pool = tensor_copies = warpgroup = _off  # type: ignore[assignment]
    wait_for_number = _off
    BASE = 0

__all__ = [
    "BASE",
    "SIMULATED",
    "Deadlock",
    "DivergentBarrier",
    "Gate",
    "MemoryFault",
    "Pointer",
    "Thread",
    "arrive",
    "copy_vector",
    "count_traffic",
    "current",
    "enabled",
    "exchange",
    "exchange_block",
    "exchange_group",
    "exchange_warp",
    "fence_shared",
    "launch",
    "load_vector",
    "locate_vector",
    "options",
    "park",
    "phase_barriers",
    "register_pool",
    "shared_window",
    "store_vector",
    "tensor_copies",
    "wait_for_number",
    "warpgroup",
]
