"""Products of matrices by a warpgroup, four warps that read them from shared memory or registers: `wgmma`.

They are asynchronous: in groups, oldest first, they read their operands and write their sums when they are waited for
(or, landing early, when they are issued). A thread must fence what it has done to registers before a product may have
them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .async_proxy import places_of, proxy_of
from .collectives import exchange_group
from .counting import current_tally
from .errors import DivergentBarrier, MemoryFault
from .thread import WARPGROUP, Thread, current


@dataclass
class Products:
    """The products of one warpgroup that are on their way; `open` are those of the group that is not committed yet."""

    open: list[Product] = field(default_factory=list)
    groups: deque[list[Product]] = field(default_factory=deque)


@dataclass
class Product:
    """One product.

    sums : the accumulators of every thread
    run : computes them
    """

    threads: Sequence[Thread]
    sums: Sequence[np.ndarray]
    run: Callable[[], None]


def products_of(thread: Thread) -> Products:
    """Those of the thread's warpgroup."""
    return thread.block.registry.setdefault((Products, thread.index // WARPGROUP), Products())


def exchange_warpgroup(value: Any, *, name: str, combine: Callable[[list[Any]], Any] | None = None) -> Any:
    """`exchange_group` of the running thread's warpgroup: DivergentBarrier if the block ends before its last thread."""
    thread = current()
    first = thread.index // WARPGROUP * WARPGROUP
    if first + WARPGROUP > len(thread.block.threads):
        raise DivergentBarrier(f"{name}: {thread} is in a warpgroup of {len(thread.block.threads) - first} threads")
    return exchange_group(value, first, WARPGROUP, name=name, combine=combine)


def fence_registers() -> None:
    """What the running thread has done to its registers comes before products that it issues from now on."""
    thread = current()
    thread.has_fenced = True
    thread.fenced = {key: (x, x.tobytes()) for key, (x, _) in thread.fenced.items()}


def issue(sums: np.ndarray, operands: Sequence[np.ndarray], uniform: tuple[Any, ...], compute: Any) -> None:
    """Start a product.

    Parameters
    ----------
    sums, operands
        The thread's registers that it writes, and that it reads.
    uniform
        What all threads say alike.
    compute
        compute(thread, sums of all threads, operands of all threads, uniform) writes all sums.
    """
    thread = current()
    _check_fence(thread, (sums, *operands))

    def start(lanes: list[Any]) -> None:
        if len({says for _, _, _, says in lanes}) > 1:
            raise DivergentBarrier(f"wgmma: the threads of a warpgroup, {thread} among them, name different operands")
        threads, all_sums, all_operands, _ = zip(*lanes, strict=True)
        product = Product(threads, all_sums, lambda: compute(thread, all_sums, all_operands, uniform))
        products_of(thread).open.append(product)
        if thread.block.early_products:
            _run(product)

    exchange_warpgroup((thread, sums, operands, uniform), name="wgmma", combine=start)


def commit() -> None:
    """Close the group of the products that the warpgroup has started since the last commit; it may be empty."""

    def close(lanes: list[Any]) -> None:
        products = products_of(current())
        products.groups.append(products.open)
        products.open = []

    exchange_warpgroup(None, name="wgmma.commit_group", combine=close)


def wait(pending: int) -> None:
    """Wait until at most the `pending` youngest groups are in flight."""

    def land(lanes: list[Any]) -> None:
        thread = current()
        products = products_of(thread)
        done = []
        while len(products.groups) > pending:
            done += products.groups.popleft()
        for product in done:
            if not thread.block.early_products:
                _run(product)
        flying = _in_flight(products)
        for product in done:
            for owner, x in zip(product.threads, product.sums, strict=True):
                if id(x) not in flying:
                    owner.fenced[id(x)] = x, None  # it may be read now: another product needs a fence first

    exchange_warpgroup(None, name="wgmma.wait_group", combine=land)


def check_landed(x: np.ndarray) -> None:
    """Raise MemoryFault if a product that is on its way writes these registers."""
    thread = current()
    if id(x) in _in_flight(products_of(thread)):
        raise MemoryFault(f"{thread} reads sums of a product that it has not waited for")


def read_shared(thread: Thread, address: int, places: np.ndarray, what: str) -> np.ndarray:
    """The 16-bit elements that lie so many bytes behind an address in swizzled shared memory, as bits."""
    proxy = proxy_of(thread)
    low = places_of(thread, address, places, what)
    tally = current_tally()
    if tally is not None:
        tally.bytes["shared_read"] += 2 * places.size
    return proxy.read(low).astype(np.uint16) | proxy.read(low + 1).astype(np.uint16) << 8


def _check_fence(thread: Thread, registers: Sequence[np.ndarray]) -> None:
    if not thread.has_fenced:
        raise MemoryFault(f"wgmma: {thread} has not fenced its registers (wgmma_fence)")
    for x in registers:
        _, fenced = thread.fenced.setdefault(id(x), (x, x.tobytes()))
        if fenced != x.tobytes():
            raise MemoryFault(f"wgmma: {thread} has used registers since its last wgmma_fence that a product takes")


def _run(product: Product) -> None:
    product.run()
    for owner, x in zip(product.threads, product.sums, strict=True):
        owner.fenced[id(x)] = x, x.tobytes()


def _in_flight(products: Products) -> set[int]:
    return {id(x) for group in (*products.groups, products.open) for product in group for x in product.sums}
