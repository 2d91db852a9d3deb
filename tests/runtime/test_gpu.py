"""Loading and starting kernels, up to the driver's answers."""

import ctypes
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest

pytest.importorskip("cuda.core")

from numba_flash.arrays import read, wrap
from numba_flash.config import Device
from numba_flash.outline import Outline, Outlines
from numba_flash.runtime import Kernel, Launch, Written, gpu
from numba_flash.runtime.binary import Binary

KERNEL = Kernel("passes.merge", ("float32", 128), 128, shared_bytes=100 * 1024)
CODE = Binary(b"code", "symbol", 32, 0, 0, 0, 0)


class Loader:
    """`cuda.core.ObjectCode`, with a driver that refuses some things."""

    def __init__(self, refuses_code=False):
        self.refuses_code = refuses_code

    def from_cubin(self, cubin):
        assert cubin == CODE.cubin
        return self

    def get_kernel(self, symbol):
        assert symbol == CODE.symbol
        if self.refuses_code:
            raise RuntimeError("CUDA_ERROR_INVALID_IMAGE")
        return SimpleNamespace(handle="handle")


def load(monkeypatch, loader, answer=gpu.SUCCESS):
    """What loading gives, and what the driver was asked."""
    asked = []

    def set_attribute(*arguments):
        asked.append(arguments)
        return (answer,)

    monkeypatch.setattr(gpu, "machine_code", lambda *key: CODE)
    monkeypatch.setattr(gpu, "cuda_device", lambda ordinal: Device("fake", (8, 0), 163 * 1024))
    monkeypatch.setattr(gpu, "current_device", lambda: 3)
    monkeypatch.setattr(gpu, "ObjectCode", loader)
    monkeypatch.setattr(gpu, "driver_version", lambda: "12.2")
    monkeypatch.setattr(gpu.driver, "cuKernelSetAttribute", set_attribute)
    return gpu.load_anew(KERNEL, "P,P", 3), asked


def test_shared_memory_beyond_48_kb_is_asked_for(monkeypatch):
    loaded, asked = load(monkeypatch, Loader())
    ((attribute, count, handle, ordinal),) = asked
    assert attribute.name.endswith("MAX_DYNAMIC_SHARED_SIZE_BYTES")
    assert (count, handle, ordinal) == (KERNEL.shared_bytes, loaded.handle, 3)


def test_too_much_shared_memory_is_an_error(monkeypatch):
    refusal = gpu.driver.CUresult.CUDA_ERROR_INVALID_VALUE
    with pytest.raises(RuntimeError, match=r"merge: the driver refuses 102400 bytes .*CUDA_ERROR_INVALID_VALUE"):
        load(monkeypatch, Loader(), refusal)


def test_code_that_the_driver_does_not_load_is_an_error_that_says_what_to_do(monkeypatch):
    with pytest.raises(RuntimeError, match=r"merge: the driver, of CUDA 12\.2, .*INVALID_IMAGE.* numba_flash\[cu12\]"):
        load(monkeypatch, Loader(refuses_code=True))


def test_a_kernel_is_loaded_once_for_each_device():
    loads = []
    with (
        patch.dict(gpu.LOADED, clear=True),
        patch.object(gpu, "load_anew", lambda *key: loads.append(key) or object()),
    ):
        first, same, other = gpu.load(KERNEL, "P", 0), gpu.load(KERNEL, "P", 0), gpu.load(KERNEL, "P", 1)
    assert first is same and other is not first and len(loads) == 2


class Driver:
    """`cuLaunchKernel`, which notes what it is given: five P, L and F parameters, and some answers."""

    def __init__(self, *answers):
        self.answers, self.launched = list(answers), []

    def __call__(self, function, *rest):
        *sizes, stream, parameters, extra = rest
        kinds = (ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
        lies = [ctypes.c_uint64.from_address(parameters + 8 * n).value for n in range(7)]
        read = [kind.from_address(at).value for kind, at in zip((*kinds, ctypes.c_float), lies, strict=True)]
        self.launched.append((int(function), sizes, stream, read, extra))
        return (self.answers.pop(0) if self.answers else gpu.SUCCESS,)


@contextmanager
def starting(driver):
    """Kernels are started by this driver; the context is of device 0."""
    with ExitStack() as stack:
        for name, player in {
            "load": lambda *key: SimpleNamespace(handle=77),
            "current_device": lambda: 0,
            "launch_kernel": driver,
            "Device": lambda ordinal: SimpleNamespace(set_current=lambda: driver.launched.append(f"device {ordinal}")),
        }.items():
            stack.enter_context(patch.object(gpu, name, player))
        yield


X, Y = read(np.zeros(3, np.float32)), read(np.zeros(4))
LAUNCH = Launch(KERNEL, 7, (X, None, Written(Y), (1, -2), 5, np.float32(0.5)))


@pytest.mark.parametrize(("handle", "stream"), [(9, 9), (2, 2), (1, 1), (0, 1)])
def test_parameters_of_a_launch(handle, stream):
    """Stream 0 is the legacy default stream, 1, whatever cuda.bindings may be told."""
    driver = Driver()
    with starting(driver):
        gpu.start(LAUNCH, handle, 0)
    sizes = [7, 1, 1, KERNEL.threads, 1, 1, KERNEL.shared_bytes]
    assert driver.launched == [(77, sizes, stream, [X.address, 0, Y.address, 1, -2, 5, 0.5], 0)]


def outline(source, offset=0):
    return wrap(Outline(source, offset, (3,), (1,), "float32", 0, 0), Outlines(1))


LAUNCH_OF_OUTLINES = Launch(KERNEL, 1, (outline(0, 8), outline(3), Written(outline(2, 4)), (0, 0), 0, np.float32(0)))


def test_pointers_of_a_planned_launch():
    """Arrays 0 and 1 have addresses of their own, 2 and 3 are scratch; a pointer may point into one."""
    driver = Driver()
    with starting(driver):
        starts = gpu.prepare([LAUNCH_OF_OUTLINES], 0, 2, [0, 256])
        for addresses in ([1000, 2000, 3000], [5000, 6000, 7000]):
            starts(9, addresses)
    assert [read[:3] for _, _, _, read, _ in driver.launched] == [[1008, 3256, 3004], [5008, 7256, 7004]]


def test_calls_at_the_same_time_have_parameters_of_their_own():
    driver = Driver()
    with starting(driver):
        starts = gpu.prepare([Launch(KERNEL, 1, (outline(0), None, None, (0, 0), 0, np.float32(0)))], 0, 1, [])

        def launch(*arguments):
            if len(driver.launched) < 3:
                gpu_launch(*arguments)  # another thread's call comes between filling in and starting
                starts(9, [len(driver.launched), 0])
            return driver(*arguments)

        gpu_launch = driver
        with patch.object(gpu, "launch_kernel", launch):
            starts(9, [100, 0])
            before = len(starts.tables)
            starts(9, [200, 0])
    pointers = [read[0] for _, _, _, read, _ in driver.launched]
    assert pointers == [100, 1, 2, 3, 2, 1, 100, 200] and before == len(starts.tables) == 4


def test_a_thread_that_has_no_context_yet_gets_one():
    driver = Driver(gpu.driver.CUresult.CUDA_ERROR_INVALID_CONTEXT)
    with starting(driver), patch.object(gpu, "current_device", lambda: None):
        gpu.prepare([LAUNCH_OF_OUTLINES], 0, 2, [0, 256])(9, [1000, 2000, 3000])
    first, note, second = driver.launched
    assert note == "device 0" and first == second


def test_a_launch_that_the_driver_refuses_is_an_error():
    driver = Driver(gpu.driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY)
    with starting(driver), pytest.raises(RuntimeError, match=r"merge: the driver does not start .*OUT_OF_MEMORY"):
        gpu.start(LAUNCH, 9, 0)
