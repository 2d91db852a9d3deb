"""What a planned call is given by torch: memory and the current stream. CuPy's part is in test_calls."""

from types import SimpleNamespace

import pytest

from numba_flash.allocation import TorchAllocation
from numba_flash.arrays import TorchLibrary

torch = pytest.importorskip("torch")


@pytest.fixture
def cuda(monkeypatch):
    """torch, with host memory for the memory of a GPU."""
    played = SimpleNamespace(
        device=lambda kind, ordinal: torch.device("cpu"),
        empty=torch.empty, empty_like=torch.empty_like, contiguous_format=torch.contiguous_format,
        float16=torch.float16, float32=torch.float32, uint8=torch.uint8,
        cuda=SimpleNamespace(current_device=lambda: 1),
        _C=SimpleNamespace(_cuda_getCurrentRawStream=lambda ordinal: 40 + ordinal),
    )  # fmt: skip
    monkeypatch.setattr(TorchLibrary, "torch", played)


@pytest.mark.parametrize("scratch", [0, 1000])
def test_torch(cuda, scratch):
    allocation = TorchAllocation([((2, 3), "float16"), ((2,), "float32")], scratch, 1)
    assert allocation.get_device() == 1
    (first, second), addresses, kept, stream = allocation.allocate()
    assert (first.shape, first.dtype, second.shape, second.dtype) == ((2, 3), torch.float16, (2,), torch.float32)
    assert addresses == [first.data_ptr(), second.data_ptr(), kept.data_ptr() if scratch else 0] and stream == 41
    assert not scratch or kept.nbytes == scratch


def test_torch_of_this_version_tells_streams():
    if torch.version.cuda:
        assert callable(torch._C._cuda_getCurrentRawStream)
