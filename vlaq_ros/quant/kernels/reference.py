"""The linear layer over nested codes, in plain torch: what every faster kernel must equal."""

from __future__ import annotations

import torch

from vlaq_ros.quant.codes import NestedWeight, bins, centre


def nested_linear(x: torch.Tensor, weight: NestedWeight, bits: int, bias: torch.Tensor | None) -> torch.Tensor:
    """Multiply by a weight read with 8 or 4 bits, with activations in 8 bits.

    Every row of `x` is rounded to integers in [-127, 127] with its own scale max|x| / 127 (dynamic, symmetric). The
    product with the unsigned codes is exact; that the codes stand for bin centres is mended by one row sum:

        y = s_x s_w (sum_k x_k u_k + centre sum_k x_k) + bias

    Args:
        x: [..., K] floating point. A row that holds a NaN or an infinity gives a row of NaN.
        weight: [O, K].
        bits: 8 or 4.
        bias: [O], or None.

    Returns:
        [..., O] in the dtype of `x`.
    """
    rows = x.float()
    tiny = torch.finfo(torch.float32).tiny  # a row of zeros stays a row of zeros
    row_scale = (rows.abs().amax(dim=-1, keepdim=True) / 127).clamp_min(tiny)
    rounded = (rows / row_scale).round_()
    # Integer sums below 2^24 are exact in float32, and its matmul is 25 times as fast as torch's integer one on a CPU.
    exact = torch.float32 if weight.in_features * 127 * 255 < 2**24 else torch.float64
    y = (rounded.to(exact) @ bins(weight, bits).to(exact).T).float()
    # In place from here: with many rows, fresh memory for every step would cost more than the product.
    y.add_(rounded.sum(dim=-1, keepdim=True), alpha=centre(bits)).mul_(row_scale).mul_(weight.scale)
    return (y if bias is None else y.add_(bias)).to(x.dtype)
