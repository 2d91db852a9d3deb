"""What is asked of CuPy, with a small GPU of numbers in its place; on a GPU the benchmarks themselves run it."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from numba_flash.arrays import gpu_count
from numba_flash.bench import command, machine, timing

from .fakes import MACHINE

pytestmark = pytest.mark.skipif(gpu_count() > 0, reason="there is a GPU")


class SmallGpu:
    """Work moves its clock on; events note it."""

    def __init__(self):
        self.now, self.log, self.freed = 0.0, [], 0
        gpu = self

        class Event:
            def record(self):
                self.at = gpu.now

            def synchronize(self):
                gpu.log.append("waited")

        class Flushed(np.ndarray):
            def fill(self, value):
                gpu.now += 100.0
                gpu.log.append("flushed")

        self.cuda = SimpleNamespace(
            Event=Event,
            get_elapsed_time=lambda begin, end: end.at - begin.at,
            Device=lambda: SimpleNamespace(id=3, pci_bus_id="0000:01:00.0"),
            runtime=SimpleNamespace(
                runtimeGetVersion=lambda: 13020,
                getDeviceProperties=lambda device: {"name": b"NVIDIA Small" if device == 3 else b"another"},
            ),
        )
        self.random = np.random
        self.empty = lambda shape, dtype: np.empty(1, dtype).view(Flushed)
        self.zeros, self.empty_like, self.copyto = np.zeros, np.empty_like, self.copy

    def copy(self, to, source):
        assert to is not source and to.nbytes == source.nbytes
        self.now += 2.0

    def get_default_memory_pool(self):
        return SimpleNamespace(free_all_blocks=lambda: setattr(self, "freed", self.freed + 1))

    def job(self, name, times):
        times = iter(times)

        def call():
            self.log.append(name)
            self.now += next(times)

        return call


@pytest.fixture
def gpu(monkeypatch):
    small = SmallGpu()
    monkeypatch.setitem(sys.modules, "cupy", small)
    for cached in (timing.flushed_memory, timing.product_rate, timing.copy_rate):
        cached.cache_clear()
    monkeypatch.setattr(timing, "PRODUCT_SIZE", 8)
    monkeypatch.setattr(timing, "COPIED_BYTES", 2**12)
    yield small
    for cached in (timing.flushed_memory, timing.product_rate, timing.copy_rate):
        cached.cache_clear()


def test_medians_without_the_flushing(gpu):
    many = [9.0, 1.0, *[1.0] * 12, *[3.0] * 13]
    assert timing.alternate({"a": gpu.job("a", many)}) == {"a": 3.0}
    assert gpu.log[: timing.FLUSHES + 2] == ["flushed"] * timing.FLUSHES + ["a", "waited"]


def test_jobs_take_turns_and_slow_ones_take_fewer(gpu):
    slow = 1000 * timing.SECONDS
    times = timing.alternate({"a": gpu.job("a", [1.0] * 99), "slow": gpu.job("slow", [slow] * 99)})
    assert times == {"a": 1.0, "slow": slow}
    calls = [name for name in gpu.log if name in ("a", "slow")][2 * timing.WARM_UP :]
    assert calls[:10] == ["a", "slow"] * 5 and calls.count("slow") == timing.LEAST and calls.count("a") == timing.MOST


def test_a_slow_first_call_costs_no_turns(gpu):
    timing.alternate({"a": gpu.job("a", [1e6, *[1.0] * 99])})
    assert gpu.log.count("a") == timing.WARM_UP + timing.MOST


@pytest.mark.parametrize("dtype", timing.WIDE)
def test_ceilings(gpu, dtype, monkeypatch):
    assert timing.copy_rate() == pytest.approx(2 * 2**12 / 2e-3 / 1e9)
    products = []

    def alternate(jobs):
        products.extend(job() for job in jobs.values())
        return dict.fromkeys(jobs, 4.0)

    monkeypatch.setattr(timing, "alternate", alternate)
    assert timing.product_rate(dtype) == pytest.approx(2 * 8**3 / 4e-3 / 1e12)
    one = np.ones((8, 8), dtype)
    assert [(x.shape, x.dtype) for x in products] == [((8, 8), (one @ one).dtype)]


def test_memory_is_given_back(gpu, monkeypatch):
    emptied = []
    fake = SimpleNamespace(cuda=SimpleNamespace(empty_cache=lambda: emptied.append(1)))
    monkeypatch.setitem(sys.modules, "torch", fake)
    command.free_memory()
    assert gpu.freed == 1 and emptied == [1]


def test_the_machine_with_a_gpu(gpu, monkeypatch):
    monkeypatch.setattr(machine, "gpu_count", lambda: 1)
    monkeypatch.setattr(machine, "driver_and_clocks", lambda bus: (f"driver of {bus}", "fast"))
    found = machine.machine()
    assert set(found) == set(MACHINE)
    assert {name: found[name] for name in ("gpu", "driver", "clocks", "cuda")} == {
        "gpu": "NVIDIA Small", "driver": "driver of 0000:01:00.0", "clocks": "fast", "cuda": "13.2",
    }  # fmt: skip
