"""What a call costs the host: what is timed, what is checked first, and what is left out of the time."""

import gc
import sys

import numpy as np
import pytest

from numba_flash import flash_attention, reference
from numba_flash.arrays import gpu_count
from numba_flash.bench import host, peers
from numba_flash.bench.host import BOTH, BRIDGE, ONE, OURS, Job, bare_launch, exact_check, host_jobs, host_rows
from numba_flash.bench.peers import CUPY, SDPA
from numba_flash.bench.timing import HOST_CALLS, HOST_TURNS, HOST_WARM_UP, host_microseconds
from numba_flash.runtime import Written, launch
from numba_flash.testing.tiles import longest_sum, tiny_tiles

from .fakes import broken


class FakeGpu:
    """A clock that calls, and waiting for the GPU, move on."""

    def __init__(self):
        self.now, self.queued, self.most_queued, self.log = 0.0, 0, 0, []

    def job(self, name, microseconds):
        def call():
            assert not gc.isenabled() or len(self.log) < 2 * HOST_WARM_UP
            self.now += 1e-6 * microseconds
            self.queued += 1
            self.most_queued = max(self.most_queued, self.queued)
            self.log.append(name)

        return call

    def synchronize(self):
        self.now += 1e-3 * self.queued
        self.queued = 0


@pytest.fixture
def no_garbage(monkeypatch):
    """To look through all that a suite has left behind takes half a second, at every turn."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


@pytest.mark.usefixtures("no_garbage")
def test_the_gpu_is_not_waited_for_within_the_time():
    gpu = FakeGpu()
    times = host_microseconds({"a": gpu.job("a", 5), "b": gpu.job("b", 50)}, gpu.synchronize, lambda: gpu.now)
    assert times == {"a": pytest.approx(5), "b": pytest.approx(50)}
    assert gc.isenabled() and gpu.queued == 0


@pytest.mark.usefixtures("no_garbage")
def test_jobs_take_turns_and_the_queue_stays_short():
    gpu = FakeGpu()
    host_microseconds({"a": gpu.job("a", 5), "b": gpu.job("b", 50)}, gpu.synchronize, lambda: gpu.now)
    timed = gpu.log[2 * HOST_WARM_UP :]
    assert timed == (["a"] * HOST_CALLS + ["b"] * HOST_CALLS) * HOST_TURNS
    assert gpu.most_queued <= 2 * HOST_WARM_UP + HOST_CALLS


@pytest.mark.usefixtures("no_garbage")
def test_the_median_leaves_outliers_out():
    gpu, slow = FakeGpu(), iter([True] * (HOST_WARM_UP + 3))

    def call():
        gpu.now += 1.0 if next(slow, False) else 7e-6

    assert host_microseconds({"a": call}, gpu.synchronize, lambda: gpu.now) == {"a": pytest.approx(7)}


def test_garbage_collection_is_back_after_an_error():
    with pytest.raises(RuntimeError):
        host_microseconds({"a": broken}, lambda: None)
    assert gc.isenabled()


X = np.random.default_rng(0).standard_normal((4, 1, 4, 128, 64)).astype(np.float32)
O = reference.attention(*X[1:])[0].astype(np.float32)


def job(what, call, passes=ONE, peer=False):
    return Job(what, "torch", "float32", passes, call, lambda o: [o], peer)


def compare(job, result):
    return host.check(job.results(result), [O.astype(np.float64)], [O], job.dtype)


def test_what_is_wrong_or_raises_is_not_timed():
    jobs = [
        job(OURS, lambda: O),
        job(SDPA, lambda: O, peer=True),
        job("wrong", lambda: O * np.float32(1.01)),
        job("raises", broken),
        job("absent", broken, peer=True),
        Job("cupy.empty", "CuPy", "float32", "", lambda: None, peer=True),
    ]
    timed = []

    def clock(calls):
        timed.extend(calls)
        return {job: 10.0 * n for n, job in enumerate(calls, 1)}

    rows = {row.what: row for row in host_rows(jobs, compare, clock)}
    assert [job.what for job in timed] == [OURS, SDPA, "cupy.empty"]
    assert rows[OURS].microseconds == 10.0 and rows[OURS].of_sdpa == 0.5 and rows[SDPA].of_sdpa is None
    assert rows["cupy.empty"].microseconds == 30.0 and rows["cupy.empty"].of_sdpa is None
    assert rows["wrong"].failed and rows["wrong"].refused.startswith("wrong: error")
    assert rows["raises"].failed and rows["raises"].refused == "RuntimeError: no such kernel"
    assert rows["absent"].refused and not rows["absent"].failed


@pytest.mark.skipif(gpu_count() > 0, reason="a GPU's test runs the jobs themselves")
class TestJobs:
    """With NumPy in CuPy's place, and this package's CPU path."""

    @pytest.fixture(autouse=True)
    def numpy_for_cupy(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "cupy", np)
        self.here = {"cupy"}
        for module in (peers, host):
            monkeypatch.setattr(module, "missing", lambda name: "" if name in self.here else "absent")
        for function in (host.operands, host.exact_and_naive):
            function.cache_clear()
        yield
        for function in (host.operands, host.exact_and_naive):
            function.cache_clear()

    @pytest.mark.parametrize("dtype", host.HOST_DTYPES)
    def test_cupy(self, dtype):
        jobs = {(job.what, job.passes): job for job in host_jobs([dtype])}
        assert list(jobs) == [
            (OURS, ONE), (OURS, BOTH), (CUPY, ONE), (CUPY, BOTH),
            ("runtime.launch, one kernel", ""), ("cupy.empty", ""),
        ]  # fmt: skip
        for what in (OURS, CUPY):
            for passes in (ONE, BOTH):
                result = jobs[what, passes].call()
                assert exact_check(jobs[what, passes], result).ok
                wrong = result if passes == ONE else result[-1]
                wrong[..., -1, :] *= wrong.dtype.type(1.1)
                assert not exact_check(jobs[what, passes], result).ok
        empty = jobs["cupy.empty", ""].call()
        assert empty.shape == (host.B, host.H, host.N, host.D) and empty.dtype == np.dtype(dtype)

    def test_peers_can_be_chosen(self):
        assert {job.what for job in host_jobs(["float32"], ["torch"])} == {
            OURS, "runtime.launch, one kernel", "cupy.empty",
        }  # fmt: skip

    def test_torch(self):
        pytest.importorskip("torch")
        self.here.add("torch")
        jobs = [job for job in host_jobs(["float16"]) if job.arrays == "torch"]
        names = [(OURS, ONE), (OURS, BOTH), (BRIDGE, ONE), (BRIDGE, BOTH), (SDPA, ONE), (SDPA, BOTH)]
        assert [(job.what, job.passes) for job in jobs] == names
        for each in jobs:
            if each.what != BRIDGE:
                assert exact_check(each, each.call()).ok, each

    def test_packages_with_heads_inside(self, monkeypatch):
        torch = pytest.importorskip("torch")
        self.here |= {"torch", "flash_attn.flash_attn_interface", "fa3_fwd_interface"}

        class Module:
            @staticmethod
            def flash_attn_func(q, k, v):
                assert q.shape == (host.B, host.N, host.H, host.D) and q.is_contiguous()
                heads_outside = (a.transpose(1, 2) for a in (q, k, v))
                return torch.nn.functional.scaled_dot_product_attention(*heads_outside).transpose(1, 2), None

        for name in self.here - {"torch", "cupy"}:
            monkeypatch.setitem(sys.modules, name, Module)
        jobs = [job for job in host_jobs(["float16"], ["flash"])]
        theirs = [job for job in jobs if job.peer and job.passes]
        assert [(job.what, job.passes) for job in theirs] == [
            ("flash_attn", ONE), ("flash_attn", BOTH), ("FlashAttention-3", ONE),
        ]  # fmt: skip
        for each in theirs:
            assert exact_check(each, each.call()).ok, each
        assert not [job for job in host_jobs(["float32"], ["flash"]) if job.peer and job.passes]


def test_the_bare_launch_is_attention(simulator):
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 1, 128, 64)).astype(np.float32)
    with tiny_tiles(), longest_sum(1000), pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "H", 1)
        what, handle, device = bare_launch(host.Operands(q, q, k, v), "float32")
        launch(what, handle, device)
    written = [argument.array.data for argument in what.args if isinstance(argument, Written)]
    assert any(x.shape == q.shape and np.allclose(x, flash_attention(q, k, v), atol=1e-5) for x in written)


@pytest.mark.gpu
def test_host_costs_on_a_gpu():
    from numba_flash.bench.command import host_clock

    rows = host_rows(host_jobs(["float32"]), exact_check, host_clock)
    assert not [(row.what, row.refused) for row in rows if row.failed and row.what != BRIDGE]
    assert all(0 < row.microseconds < 5000 for row in rows if not row.refused)
