"""A linear layer over nested codes, and networks that differ only in how many bits of the same codes they read."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TypeVar, cast

import torch
from torch import nn

from vlaq_ros.quant.codes import NestedWeight, quantize
from vlaq_ros.quant.kernels.reference import nested_linear

Network = TypeVar("Network", bound=nn.Module)


class NestedLinear(nn.Module):
    """`nn.Linear` for inference, reading `bits` (8 or 4) of nested codes that other layers may share."""

    hi: torch.Tensor
    lo: torch.Tensor
    scale: torch.Tensor

    def __init__(self, weight: NestedWeight, bits: int, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.register_buffer("hi", weight.hi)
        self.register_buffer("lo", weight.lo)
        self.register_buffer("scale", weight.scale)
        self.in_features = weight.in_features
        self.bits = bits
        self.bias = bias

    @property
    def weight(self) -> NestedWeight:
        """The codes."""
        return NestedWeight(self.hi, self.lo, self.scale, self.in_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [..., K] to [..., O]."""
        return nested_linear(x, self.weight, self.bits, self.bias)


def quantize_linears(network: nn.Module, select: Callable[[str], bool]) -> None:
    """Replace, one by one, every linear layer whose name is selected by its nested codes; its float weight is freed.

    The layers then read all 8 bits; `view` gives networks that read fewer.
    """
    linears = [name for name, module in network.named_modules() if isinstance(module, nn.Linear) and select(name)]
    for name in linears:  # by name: a list of the modules would keep all float weights to the end
        linear = cast("nn.Linear", network.get_submodule(name))
        network.set_submodule(name, NestedLinear(quantize(linear.weight), 8, linear.bias))


def view(network: Network, bits: int) -> Network:
    """Give the same network reading `bits` of its nested codes: its own modules over the very same tensors."""
    shared = {id(tensor): tensor for tensor in chain(network.parameters(), network.buffers())}
    shell = copy.deepcopy(network, shared)  # what the memo holds is not copied
    for module in shell.modules():
        if isinstance(module, NestedLinear):
            module.bits = bits
    return shell


def linear_weights(network: nn.Module, select: Callable[[str], bool]) -> Iterator[torch.Tensor]:
    """Give the weights of the selected linear layers, as floats or as codes with their scales."""
    for name, module in network.named_modules():
        if select(name) and isinstance(module, nn.Linear):
            yield module.weight
        elif select(name) and isinstance(module, NestedLinear):
            yield from module.buffers()


def resident_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Count the bytes that stay in memory for these tensors; what several of them share is counted once."""
    storages = {storage.data_ptr(): storage.nbytes() for storage in (tensor.untyped_storage() for tensor in tensors)}
    return sum(storages.values())
