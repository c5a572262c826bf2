"""A linear layer over nested codes, and networks that differ only in which Precision of the same codes they read."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from vlaq_ros.quant import codes
from vlaq_ros.quant.codes import NestedWeight
from vlaq_ros.quant.hadamard import rotate
from vlaq_ros.quant.kernels.op import nested_linear
from vlaq_ros.quant.kernels.select import Kernel

Network = TypeVar("Network", bound=nn.Module)

_SLICE_ROWS = 256  # of a weight that are in floating point at a time where activations keep 16 bits


class NestedLinear(nn.Module):
    """`nn.Linear` for inference, reading one Precision of nested codes that other layers may share.

    With 8-bit activations it is the operator of `kernels`; with 16-bit activations the codes are expanded, some rows at
    a time, and multiplied in the dtype of the activations.
    """

    hi: Tensor
    lo: Tensor
    scale: Tensor
    rows: Tensor
    half_weight: Tensor
    half_rows: Tensor
    bias: Tensor | None

    def __init__(
        self, weight: NestedWeight, bias: Tensor | None, precision: int, activation_bits: int, kernel: Kernel
    ) -> None:
        super().__init__()
        if kernel.layout == "tiles":
            from vlaq_ros.quant.kernels import cpu
        packed = cpu.pack(weight) if kernel.layout == "tiles" else weight
        for name in ("hi", "lo", "scale", "rows", "half_rows"):
            self.register_buffer(name, getattr(packed, name))
        self.register_buffer("half_weight", packed.half)  # nn.Module has a method half
        self.register_buffer("bias", bias)
        self.in_features, self.out_features, self.block = weight.in_features, weight.out_features, weight.block
        self._groups = weight.groups
        self._unit = 16 if kernel.layout == "tiles" else 1  # rows
        outputs = torch.arange(weight.out_features, dtype=torch.int32, device=packed.rows.device)
        end = weight.out_features
        self._in_order = torch.equal(packed.rows[:end], outputs) and bool((packed.rows[end:] < 0).all())
        self.read(precision, activation_bits)

    def read(self, precision: int, activation_bits: int) -> None:
        """Choose the Precision, by its place among them (finest first), and 8 or 16 bits for the activations."""
        self.precision, self.activation_bits = precision, activation_bits
        self._units_and_bits = [
            number for group in self._groups for number in (-(-group.rows // self._unit), group.bits[precision])
        ]

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., K] to [..., O]."""
        if self.activation_bits == 8:
            y = nested_linear(
                x,
                self.hi,
                self.lo,
                self.scale[self.precision],
                None if self._in_order else self.rows,
                self.bias,
                self._units_and_bits,
                self.block,
                self.out_features,
            )
        else:
            y = self._weight_only(x)
        if len(self.half_rows):
            half_bias = None if self.bias is None else self.bias[self.half_rows].to(x.dtype)
            y[..., self.half_rows] = linear(x, self.half_weight.to(x.dtype), half_bias)
        return y

    def _weight_only(self, x: Tensor) -> Tensor:
        if self._unit != 1:
            from vlaq_ros.quant.kernels import cpu
        nibbles = codes.nibbles if self._unit == 1 else cpu.nibbles
        y = x.new_zeros(*x.shape[:-1], self.out_features)
        rotated = rotate(x.float(), self.block).to(x.dtype)
        first, scale = 0, self.scale[self.precision]
        for units, bits in zip(self._units_and_bits[::2], self._units_and_bits[1::2], strict=True):
            last = first + units
            for start in range(first, last if bits else first, _SLICE_ROWS // self._unit):
                span = slice(start, min(start + _SLICE_ROWS // self._unit, last))
                code = codes.signed(nibbles(self.hi[span]), nibbles(self.lo[span]) if bits == 8 else None)
                stored = slice(span.start * self._unit, span.stop * self._unit)
                rows = self.rows[stored]
                weight = codes.dequantize(code, bits, scale[stored])[rows >= 0, : rotated.shape[-1]]
                y[..., rows[rows >= 0]] = linear(rotated, weight.to(x.dtype))
            first = last
        return y if self.bias is None else y + self.bias.to(x.dtype)


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
