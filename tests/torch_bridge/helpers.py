"""What the tests of the torch bridge share."""

import ctypes

import numpy as np
import torch
from numpy.lib.array_utils import byte_bounds

from numba_flash.testing.layouts import LAYOUTS

ALIGNMENT = 16
STRIDES = tuple(name for name in LAYOUTS if name != "backward")  # torch has no negative strides


def tensor(x, device="cpu"):
    """A tensor with the values, strides and alignment of a NumPy array, and with what lies between its elements."""
    low, high = byte_bounds(x)
    shift = low % ALIGNMENT
    memory = torch.zeros(shift + high - low, dtype=torch.uint8)
    memory.numpy()[shift:] = np.ctypeslib.as_array((ctypes.c_uint8 * (high - low)).from_address(low))
    strides = [s // x.itemsize for s in x.strides]
    dtype = getattr(torch, x.dtype.name)
    return memory.to(device).view(dtype).as_strided(x.shape, strides, (shift + x.ctypes.data - low) // x.itemsize)


def array(x):
    """A tensor's values as a NumPy array in float64."""
    return x.detach().to("cpu", torch.float64).numpy()


def normal(*shapes, dtype=torch.float64, device="cpu", seed=0):
    """Normal numbers, the same for the same seed, in tensors that want gradients."""
    generator = torch.Generator().manual_seed(seed)
    made = (torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype) for shape in shapes)
    return [x.requires_grad_() for x in made]


def gradients(o, inputs, seed=9):
    """Of the inputs, for some gradient of o."""
    (do,) = normal(o.shape, dtype=o.dtype, device=o.device, seed=seed)
    return torch.autograd.grad(o, inputs, do.detach())


def assert_equal(results, others):
    """The same numbers of the same dtype, bit for bit but for the sign of a zero."""
    for x, y in zip(results, others, strict=True):
        assert x.dtype == y.dtype and torch.equal(x, y)
