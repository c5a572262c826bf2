"""The operator in plain torch, on any device: what every faster kernel must equal, to the bit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from vlaq_ros.quant.codes import nibbles, signed
from vlaq_ros.quant.hadamard import hadamard
from vlaq_ros.quant.kernels import op

_COLUMNS = 512  # of a plane at a time: 1024 products of at most 127 * 128 sum to less than 2^24


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
    """Multiply quantized activations by nested codes; the arguments are `op`'s, in the layout "rows".

    With x' the transformed row of activations, every step in float32:

        a = max|x'|,  q = round(x' * (127 / a)) in [-127, 127],  s_x = (a / 127) / sqrt(block)
        y = (sum_k q_k (code_k - 2^(bits - 1)) + 0.5 sum_k q_k) * (s_x * (scale 2^(8 - bits))) + bias

    The first sum is exact, then rounded to float32. Halves are rounded to even. A row that holds a NaN or an infinity,
    or whose transform overflows, gives a row of NaN; one with a < 1e-30 counts as zeros.
    """
    quantized, x_scale, finite = _quantize_rows(x, 2 * hi.shape[1], block)
    row_sum = quantized.sum(dim=1, keepdim=True)
    y = torch.zeros(len(quantized), out_features, device=x.device)
    for first, units, bits in op.runs(groups):
        span = slice(first, first + units)
        product = _exact_product(quantized, hi[span], lo[span] if bits == 8 else None)
        product.add_(row_sum, alpha=0.5).mul_(x_scale * (scale[span] * 2.0 ** (8 - bits)))
        y[:, span if rows is None else rows[span]] = product
    if bias is not None:
        y += bias.float()
    y.masked_fill_(~finite, math.nan)
    return y.to(x.dtype).reshape(*x.shape[:-1], out_features)


def _quantize_rows(x: Tensor, features: int, block: int) -> tuple[Tensor, Tensor, Tensor]:
    """Give M rows as integers [M, K'] in float32, their scales [M, 1], and whether they are finite [M, 1]."""
    flat = x.reshape(-1, x.shape[-1]).float()
    transformed = hadamard(pad(flat, (0, features - flat.shape[1])), block)
    largest = transformed.abs().amax(dim=1, keepdim=True)
    finite = largest.isfinite()
    usable = finite & (largest >= 1e-30)
    top = torch.full_like(largest, 127)  # torch replaces a division of or by a number with a product, on some devices
    quantized = torch.where(usable, (transformed * (top / largest)).round_(), 0)
    return quantized, largest / top * block**-0.5, finite


def _exact_product(quantized: Tensor, hi: Tensor, lo: Tensor | None) -> Tensor:
    """Multiply [M, K'] integers by the signed codes of R rows: [M, R], rounded once to float32.

    Integer sums below 2^24 are exact in float32, whose product is 25 times as fast as torch's of integers on a CPU.
    """
    total = torch.zeros(len(quantized), len(hi), dtype=torch.int32, device=hi.device)
    first_half, second_half = quantized.chunk(2, dim=1)
    for start in range(0, hi.shape[1], _COLUMNS):
        span = slice(start, start + _COLUMNS)
        code = signed(nibbles(hi[:, span]), None if lo is None else nibbles(lo[:, span]))
        total += (torch.cat([first_half[:, span], second_half[:, span]], dim=1) @ code.float().T).int()
    return total.float()
