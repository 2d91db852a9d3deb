"""Loading and starting kernels, up to the driver's answers."""

from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest

pytest.importorskip("cuda.core")

from numba_flash.arrays import read
from numba_flash.config import Device
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


def test_parameters_of_a_launch():
    x, y = read(np.zeros(3, np.float32)), read(np.zeros(4))
    launched = []
    with (
        patch.object(gpu, "load", lambda *key: key),
        patch.object(gpu, "current_device", lambda: 0),
        patch.object(gpu, "stream_of", lambda handle: handle),
        patch.object(gpu, "cuda_launch", lambda *arguments: launched.append(arguments)),
    ):
        gpu.start(Launch(KERNEL, 7, (x, None, Written(y), (1, 2), 5, np.float32(2))), 9, 0)
    ((stream, configuration, key, *parameters),) = launched
    assert stream == 9 and key == (KERNEL, "P,P,P,L2,L,F", 0)
    assert (configuration.grid, configuration.block) == ((7, 1, 1), (128, 1, 1))
    assert configuration.shmem_size == KERNEL.shared_bytes
    assert parameters == [x.address, 0, y.address, 1, 2, 5, np.float32(2)]


@pytest.mark.parametrize(("handle", "default"), [(0, True), (1, True), (2, True), (12345, False)])
def test_streams_are_wrapped_once(handle, default):
    first = gpu.stream_of(handle)
    assert first is gpu.stream_of(handle) and (handle in gpu.DEFAULT_STREAMS) is default
    if not default:
        assert int(first.handle) == handle
