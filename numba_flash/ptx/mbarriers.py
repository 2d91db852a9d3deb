"""Barriers in shared memory that count arrivals and bytes, sm_90: how copies say that they are done.

A barrier goes through phases, numbered from 0. A phase ends when as many threads have arrived as the barrier was made
for, and all bytes are there that they announced (`mbarrier_expect`). Whoever waits names the phase by its parity, and
goes on at once if the last one of that parity is over: at first that is so for parity 1, as if a phase had gone before.
A barrier takes 8 bytes; addresses are those of `shared_address`.
"""

from __future__ import annotations

from typing import Any

from numba.types import uint32

from numba_flash import simulator
from numba_flash.ptx.codegen import instruction

WAIT = """{
.reg .pred over;
AGAIN:
mbarrier.try_wait.parity.shared::cta.b64 over, [$0], $1;
@!over bra AGAIN;
}"""


@instruction("mbarrier.init.shared::cta.b64 [$0], $1;", reads=[uint32, uint32], memory=True)
def mbarrier_init(barrier: Any, count: Any) -> None:
    """Make a barrier for `count` arrivals; one thread does, and others use it after `cuda.syncthreads`."""
    simulator.phase_barriers.make_barrier(barrier, count)


@instruction("fence.mbarrier_init.release.cluster;", memory=True)
def publish_mbarriers() -> None:
    """Let copies report to the barriers that this thread has made."""
    simulator.phase_barriers.publish_barriers()


@instruction("mbarrier.arrive.shared::cta.b64 _, [$0];", reads=[uint32], memory=True)
def mbarrier_arrive(barrier: Any) -> None:
    """Arrive: whoever waits sees what this thread has written and read before."""
    simulator.phase_barriers.barrier_at(barrier).arrive()


@instruction("mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1;", reads=[uint32, uint32], memory=True)
def mbarrier_expect(barrier: Any, nbytes: Any) -> None:
    """Arrive, and announce so many bytes, which copies will report."""
    simulator.phase_barriers.barrier_at(barrier).arrive(int(nbytes))


@instruction(WAIT, reads=[uint32, uint32], memory=True)
def mbarrier_wait(barrier: Any, parity: Any) -> None:
    """Wait until the barrier's last phase of this parity is over."""
    simulator.phase_barriers.wait_for_phase(barrier, parity)
