"""A linear layer over nested codes, and networks that differ only in which Precision of the same codes they read."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from itertools import chain, groupby
from typing import Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from vlaq_ros.quant.codes import NestedWeight
from vlaq_ros.quant.kernels import cpu, op, weight_only
from vlaq_ros.quant.kernels.select import Kernel

Network = TypeVar("Network", bound=nn.Module)


class NestedLinear(nn.Module):
    """`nn.Linear` for inference, reading one Precision of nested codes that other layers may share.

    Activations are quantized to 8 bits inside the operator of `kernels`, or keep their 16.
    """

    hi: Tensor
    lo: Tensor
    scale: Tensor
    rows: Tensor | None
    half_weight: Tensor
    half_rows: Tensor
    bias: Tensor | None

    def __init__(
        self, weight: NestedWeight, bias: Tensor | None, precision: int, activation_bits: int, kernel: Kernel
    ) -> None:
        super().__init__()
        packed = cpu.pack(weight) if kernel.layout == "tiles" else weight
        for name in ("hi", "lo", "scale", "half_rows"):
            self.register_buffer(name, getattr(packed, name))
        self.register_buffer("rows", None if _in_order(packed.rows, weight.out_features) else packed.rows)
        self.register_buffer("half_weight", packed.half)  # nn.Module has a method half
        self.register_buffer("bias", bias)
        self.in_features, self.out_features, self.block = weight.in_features, weight.out_features, weight.block
        self._groups = weight.groups
        self._unit_rows = cpu.TILE_ROWS if kernel.layout == "tiles" else 1
        self.read(precision, activation_bits)

    def read(self, precision: int, activation_bits: int) -> None:
        """Choose the Precision, by its place among them (finest first), and 8 or 16 bits for the activations."""
        self.precision, self.activation_bits = precision, activation_bits
        units_and_bits: list[int] = []
        for bits, run in groupby(self._groups, key=lambda group: group.bits[precision]):
            units_and_bits += [sum(-(-group.rows // self._unit_rows) for group in run), bits]
        scale = self.scale[precision]
        # Looking these up would take a small layer as long as computing it.
        self._planes = (self.hi, self.lo, scale, self.rows, self.bias, units_and_bits, self.block, self.out_features)
        self._multiply = op.nested_linear if activation_bits == 8 else weight_only.nested_linear
        self._has_half = len(self.half_rows) > 0

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # as in torch; the tensors are others now
        self.read(self.precision, self.activation_bits)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., K] to [..., O]."""
        y: Tensor = self._multiply(x, *self._planes)
        if self._has_half:
            half_bias = None if self.bias is None else self.bias[self.half_rows].to(x.dtype)
            y[..., self.half_rows] = linear(x, self.half_weight.to(x.dtype), half_bias)
        return y


def _in_order(rows: Tensor, out_features: int) -> bool:
    """Say whether every output channel is stored, in its place, and nothing but padding after them."""
    channels = torch.arange(out_features, dtype=rows.dtype, device=rows.device)
    return torch.equal(rows[:out_features], channels) and bool((rows[out_features:] < 0).all())


def view(network: Network, precision: int, activation_bits: int) -> Network:
    """Give the same network reading another Precision: its own modules over the very same tensors."""
    shared = {id(tensor): tensor for tensor in chain(network.parameters(), network.buffers())}
    shell = copy.deepcopy(network, shared)  # what the memo holds is not copied
    for module in shell.modules():
        if isinstance(module, NestedLinear):
            module.read(precision, activation_bits)
    return shell


def resident_bytes(tensors: Iterable[Tensor]) -> int:
    """Count the bytes that stay in memory for these tensors; what several of them share is counted once."""
    storages = {storage.data_ptr(): storage.nbytes() for storage in (tensor.untyped_storage() for tensor in tensors)}
    return sum(storages.values())
