"""The number types of a kernel: what it stores, what it computes with, and how the one becomes the other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numba import types

from numba_flash.device.exp2 import exp2_float64
from numba_flash.device.tanh import tanh_float32
from numba_flash.ptx import (
    bfloat16_to_float32,
    device,
    ex2,
    float16_to_float32,
    float32_to_bfloat16,
    float32_to_float16,
)
from numba_flash.simulator import SIMULATED

LOG2_E = np.float32(math.log2(math.e))


@dataclass(frozen=True, eq=False)
class Number:
    """Typed constants and conversions for one storage dtype; kernels close over its fields."""

    stored: Any  # numba type of an element in global memory
    real: Any  # numba type of arithmetic, shared tiles and registers
    zero: Any
    one: Any
    neg_inf: Any
    to_real: Any  # stored -> real
    to_stored: Any  # real -> stored
    exp: Any  # e^x of a real
    power: Any  # 2^x; e^x = power(x * nat), so that a factor of x costs nothing
    nat: Any
    tanh: Any


@device
def unchanged(x):
    return x


@device
def exp_float32(x):
    return ex2(x * LOG2_E)


@device
def exp_float64(x):
    return math.exp(x)


@device
def tanh_float64(x):
    return math.tanh(x)


# In the simulator math.exp would raise OverflowError where a GPU gives infinity.
EXP_FLOAT64 = np.exp if SIMULATED else exp_float64

CONVERSIONS = {
    "float16": (types.uint16, float16_to_float32, float32_to_float16),
    "bfloat16": (types.uint16, bfloat16_to_float32, float32_to_bfloat16),
    "float32": (types.float32, unchanged, unchanged),
    "float64": (types.float64, unchanged, unchanged),
}


@cache
def number(dtype: str) -> Number:
    """The `Number` of a dtype's name; 16-bit floats compute in float32."""
    stored, to_real, to_stored = CONVERSIONS[dtype]
    scalar = np.float64 if dtype == "float64" else np.float32
    return Number(
        stored=stored,
        real=types.float64 if dtype == "float64" else types.float32,
        zero=scalar(0),
        one=scalar(1),
        neg_inf=scalar(-np.inf),
        to_real=to_real,
        to_stored=to_stored,
        exp=EXP_FLOAT64 if dtype == "float64" else exp_float32,
        power=exp2_float64 if dtype == "float64" else ex2,
        nat=scalar(math.log2(math.e)),
        tanh=tanh_float64 if dtype == "float64" else tanh_float32,
    )
