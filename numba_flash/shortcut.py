"""A shorter way for the call that is made most: o alone, of q, k and v of CuPy, on the current stream.

It does what `plan.answer` does, and nothing that this call does not need: one lookup, one allocation, the launches.
That spares a fifth of what such a call costs the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba_flash.arrays import ALIGNED, describe
from numba_flash.plan import REMEMBERED, planned

SHORTCUTS: dict[tuple[Any, ...], Callable[[list[int]], Any]] = {}


def short_answer(planner: Any, settings: tuple[Any, ...], q: Any, k: Any, v: Any) -> Any:
    """The only result of a call with these settings, which are of the types that they should be of."""
    q_data, k_data, v_data = q.data, k.data, v.data
    addresses = [q_data.ptr, k_data.ptr, v_data.ptr]
    key = (
        settings,
        q.shape, q.strides, q.dtype, addresses[0] % ALIGNED, q_data.device_id,
        k.shape, k.strides, k.dtype, addresses[1] % ALIGNED, k_data.device_id,
        v.shape, v.strides, v.dtype, addresses[2] % ALIGNED, v_data.device_id,
    )  # fmt: skip
    run = SHORTCUTS.get(key)
    if run is None:
        run = planned(planner, settings, describe((q, k, v))[2]).shortcut()
        if len(SHORTCUTS) >= REMEMBERED:
            SHORTCUTS.clear()
        SHORTCUTS[key] = run
    return run(addresses)
