"""The linear layer with weights alone quantized: codes are expanded, some rows at a time, for a product of floats.

It reads the same planes as the operator and saves the same memory, not time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from vlaq_ros.quant import codes
from vlaq_ros.quant.hadamard import rotate
from vlaq_ros.quant.kernels import cpu, op

_SLICE = 256  # rows that are in floating point at a time


def nested_linear(  # noqa: PLR0917 - the operator's schema
    x: Tensor,
    hi: Tensor,
    lo: Tensor,
    scale: Tensor,
    rows: Tensor | None,
    bias: Tensor | None,
    groups: Sequence[int],
    block: int,
    out_features: int,
) -> Tensor:
    """Multiply activations, in their own dtype, by decoded weights; the arguments are `op`'s, in either layout."""
    nibbles, unit = (codes.nibbles, 1) if hi.ndim == 2 else (cpu.nibbles, cpu.TILE_ROWS)
    y = x.new_zeros(*x.shape[:-1], out_features)
    rotated = rotate(x.float(), block).to(x.dtype)
    for first, units, bits in op.runs(groups):
        last = first + units
        for start in range(first, last, _SLICE // unit):
            span = slice(start, min(start + _SLICE // unit, last))
            stored = slice(span.start * unit, span.stop * unit)
            outputs = torch.arange(stored.start, stored.stop, device=x.device) if rows is None else rows[stored]
            used = (outputs >= 0) & (outputs < out_features)  # the rest is padding
            code = codes.signed(nibbles(hi[span]), nibbles(lo[span]) if bits == 8 else None)
            weight = codes.dequantize(code, bits, scale[stored])[used, : rotated.shape[-1]]
            y[..., outputs[used]] = linear(rotated, weight.to(x.dtype))
    return y if bias is None else y + bias.to(x.dtype)
