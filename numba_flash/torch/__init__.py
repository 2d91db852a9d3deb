"""Attention for torch: gradients through autograd, torch.compile without graph breaks, and drop-in functions.

`flash_attention` is `numba_flash.flash_attention` for tensors. The others have their originals' names, arguments and
meaning, so that a program changes one import: `flash_attn_func`, `flash_attn_qkvpacked_func` and
`flash_attn_kvpacked_func` those of flash-attn, `scaled_dot_product_attention` that of torch.nn.functional. Tensors may
lie on a GPU or in host memory. Work is launched on torch's current stream.
"""

from numba_flash.torch.attention import flash_attention
from numba_flash.torch.flash_attn import flash_attn_func, flash_attn_kvpacked_func, flash_attn_qkvpacked_func
from numba_flash.torch.sdpa import scaled_dot_product_attention

__all__ = [
    "flash_attention",
    "flash_attn_func",
    "flash_attn_kvpacked_func",
    "flash_attn_qkvpacked_func",
    "scaled_dot_product_attention",
]
