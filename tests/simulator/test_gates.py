"""The one primitive carries the barriers that are not ours yet: mbarrier, warpgroups."""

import pytest
from numba import cuda

from numba_flash import simulator


class Phase(simulator.Gate):
    """mbarrier.try_wait.parity: open once the phase has flipped, however many wait, or nobody."""

    def __init__(self):
        super().__init__("mbarrier")
        self.flipped = False

    def is_open(self):
        return self.flipped


def test_a_gate_that_a_thread_opens():
    order = []

    def kernel():
        phase = simulator.current().block.registry.setdefault("phase", Phase())
        if cuda.threadIdx.x == 3:
            cuda.nanosleep(100)
            phase.flipped = True
            order.append("flip")
        else:
            simulator.park(phase)
            order.append(cuda.threadIdx.x)

    simulator.launch(kernel, 1, 4, 0, ())
    assert order == ["flip", 0, 1, 2]


def test_waiting_by_asking_again():
    def kernel(polls):
        flag = cuda.shared.array(1, "i4")
        if cuda.threadIdx.x == 1:
            flag[0] = 1
        for poll in range(5):
            if flag[0] == 1:
                polls[cuda.threadIdx.x] = poll
                return
            cuda.nanosleep(20)

    polls = {}
    simulator.launch(kernel, 1, 3, 0, (polls,))
    assert polls == {0: 1, 1: 0, 2: 0}


def test_warpgroups_meet_on_their_own():
    seen = {}

    def kernel():
        t = simulator.current()
        if t.index >= 128:
            cuda.nanosleep(1)
        first = t.index // 128 * 128
        seen[t.index] = simulator.exchange_group(t.index, first, 128, combine=sum)

    simulator.launch(kernel, 1, 256, 0, ())
    assert seen == {i: sum(range(i // 128 * 128, i // 128 * 128 + 128)) for i in range(256)}


@pytest.mark.parametrize(("first", "size"), [(0, 65), (-1, 65), (32, 32)])
def test_a_group_is_of_this_block_and_has_the_caller(first, size):
    with pytest.raises(ValueError, match="is not in a group"):
        simulator.launch(lambda: simulator.exchange_group(1, first, size), 1, 64, 0, ())
