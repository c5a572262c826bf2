"""The rotation that evens out a linear layer's inputs: a Walsh-Hadamard transform in blocks of features.

A layer computes w x = (w H)(H x) for an orthogonal symmetric H. With H = Hadamard / sqrt(block) on every block of
features, in Sylvester's order, no weight or activation stands out of its block any more, so that one scale per row
serves all of them (QuaRot, arXiv 2404.00456).
"""

from __future__ import annotations

import math

import torch

_LARGEST, _SMALLEST = 64, 16


def block_size(features: int) -> int:
    """Give the block for K features: the largest power of two up to 64 that divides K, or 64 where that is below 16."""
    divisor = min(features & -features, _LARGEST)
    return divisor if divisor >= _SMALLEST else _LARGEST


def padded(features: int) -> int:
    """Give K': K features with zeros appended to fill the last block."""
    block = block_size(features)
    return -(-features // block) * block


def hadamard(x: torch.Tensor, block: int) -> torch.Tensor:
    """Transform every block of features, without the factor 1 / sqrt(block).

    The order of the additions is part of the storage format's arithmetic: butterflies (a + b, a - b) with strides
    1, 2, 4, ... in the dtype of `x`.

    Args:
        x: [..., K'], K' a multiple of `block`.
        block: a power of two.
    """
    # Transposed, so that a stride is whole rows of memory.
    this: torch.Tensor = x.reshape(-1, block).t().clone(memory_format=torch.contiguous_format)
    other = torch.empty_like(this)
    stride = 1
    while stride < block:
        (a, b), (total, difference) = (
            buffer.view(block // (2 * stride), 2, stride, -1).unbind(1) for buffer in (this, other)
        )
        torch.add(a, b, out=total)
        torch.sub(a, b, out=difference)
        this, other = other, this
        stride *= 2
    return this.t().reshape(x.shape)


def rotate(x: torch.Tensor, block: int) -> torch.Tensor:
    """Pad [..., K] with zeros to whole blocks and rotate it: [..., K'], orthonormal, its own inverse."""
    filled = torch.nn.functional.pad(x, (0, -x.shape[-1] % block))
    return hadamard(filled, block) / math.sqrt(block)
