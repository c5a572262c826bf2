"""Networks of quantized layers: on the kernels that the robot runs, or emulated in float."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from vlaq_ros.policy.pi0 import PI0Network
from vlaq_ros.quant.codes import NestedWeight, decode
from vlaq_ros.quant.hadamard import block_size, rotate
from vlaq_ros.quant.kernels import select
from vlaq_ros.quant.linear import NestedLinear

_CLIPS = torch.linspace(1, 0.4, 25)  # of a row's largest weight, tried for its scale


def effective(weight: NestedWeight, precision: int) -> Tensor:
    """Give the weights [O, K] that a Precision reads, turned back from rotated space."""
    return rotate(decode(weight, precision), weight.block)[:, : weight.in_features]


def student(network: PI0Network, replaced: Mapping[str, nn.Module]) -> PI0Network:
    """Give a network with some modules in the place of others; all else is shared."""
    shared = {id(tensor): tensor for tensor in chain(network.parameters(), network.buffers())}
    changed = copy.deepcopy(network, shared)
    for name, module in replaced.items():
        changed.set_submodule(name, module)
    return changed.eval()


def quantized(
    network: PI0Network, nested: Mapping[str, NestedWeight], precision: int, activation_bits: int
) -> PI0Network:
    """Give a network whose linears read a Precision of nested codes, on this machine's kernels."""
    kernel = select.chosen(network.projector.weight.device)
    biases = {name: cast("nn.Linear", network.get_submodule(name)).bias for name in nested}
    return student(
        network,
        {
            name: NestedLinear(weight, biases[name], precision, activation_bits, kernel)
            for name, weight in nested.items()
        },
    )


class EmulatedLinear(nn.Module):
    """A linear whose weights are already rounded, and whose activations are rounded here, all in float.

    Activations are rotated and rounded as the operator of `quant.kernels` does it with 8 bits: symmetrically, with the
    scale of each token's largest. Emulated: it saves neither memory nor time, and must never be timed.

    Args:
        weight: [O, K].
        bias: [O] or None.
        activation_bits: 2, 3, 4 or 8; 16 leaves activations as they are.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, activation_bits: int) -> None:
        super().__init__()
        self.block = block_size(weight.shape[1])
        self.register_buffer("rotated", rotate(weight, self.block))
        self.register_buffer("bias", bias)
        self.levels = 2 ** (activation_bits - 1) - 1 if activation_bits < 16 else None
        self.rotated: Tensor
        self.bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., K] to [..., O]."""
        turned = rotate(x.float(), self.block)
        if self.levels is not None:
            step = turned.abs().amax(-1, keepdim=True).clamp_min(1e-30) / self.levels
            turned = (turned / step).round() * step
        return linear(turned, self.rotated, self.bias).to(x.dtype)


def rounded(weight: Tensor, bits: int) -> Tensor:
    """Round weights [O, K] to a width that codes may or may not store: emulated.

    As in `quant.codes`: rotated, mid-rise, symmetric, one scale per row, here always the one of least squared error.
    """
    block = block_size(weight.shape[1])
    turned = rotate(weight.float(), block)
    largest = turned.abs().amax(1, keepdim=True).clamp_min(1e-30)
    half = 2 ** (bits - 1)
    best = torch.full_like(largest, torch.inf)
    values = torch.zeros_like(turned)
    for clip in _CLIPS:
        step = clip * largest / half
        candidate = ((turned / step).floor().clamp(-half, half - 1) + 0.5) * step
        error = (candidate - turned).square().sum(1, keepdim=True)
        values = torch.where(error < best, candidate, values)
        best = torch.minimum(error, best)
    return rotate(values, block)[:, : weight.shape[1]]
