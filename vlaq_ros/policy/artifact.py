"""Nested weights as entries of a safetensors file, in compressed-tensors' words where they fit."""

from __future__ import annotations

from collections.abc import MutableMapping
from itertools import pairwise

import torch
from torch import Tensor

from vlaq_ros.policy.manifest import LayerPlan
from vlaq_ros.quant.codes import NestedWeight
from vlaq_ros.quant.hadamard import block_size, padded


def entries(module: str, weight: NestedWeight) -> dict[str, Tensor]:
    """Name the tensors of a layer; what follows from the layer's shape is left out."""
    named = {
        "weight_hi": weight.hi,  # [R, K'/2] uint8
        "weight_lo": weight.lo,  # [R8, K'/2] uint8
        "weight_scale": weight.scale,  # [P, R] float32
    }
    if not torch.equal(weight.rows, _in_order(weight.out_features)):
        named["weight_rows"] = weight.rows  # [R] int32
    if len(weight.half_rows):
        named["weight_half"], named["weight_half_rows"] = weight.half, weight.half_rows  # [R16, K], [R16] int32
    return {f"{module}.{kind}": tensor.contiguous() for kind, tensor in named.items()}


def nested(
    module: str, plan: LayerPlan, precisions: int, shape: torch.Size, tensors: MutableMapping[str, Tensor]
) -> NestedWeight:
    """Take a layer out of the tensors of a bundle.

    Args:
        module: its name.
        plan: what the manifest says of it.
        precisions: how many the bundle has.
        shape: [O, K] of its weight.
        tensors: by their names; those of the layer are removed.

    Raises:
        ValueError: a tensor is missing, or does not fit the others.
    """
    outputs, features = shape
    if plan.block != block_size(features):
        raise ValueError(f"{module} is rotated in blocks of {plan.block}, expected {block_size(features)}")
    widths = [group.bits for group in plan.groups]
    if any(first <= second for first, second in pairwise(widths)):  # kernels find low nibbles by this order
        raise ValueError(f"{module} has groups of rows with widths {widths}, expected them falling")
    rows = sum(group.rows for group in plan.groups)
    fine_rows = sum(group.rows for group in plan.groups if group.bits[0] == 8)

    def take(kind: str, dtypes: tuple[torch.dtype, ...], expected: tuple[int, ...]) -> Tensor:
        name = f"{module}.{kind}"
        if name not in tensors:
            raise ValueError(f"{name} is missing")
        tensor = tensors.pop(name)
        if tensor.dtype not in dtypes or tensor.shape != expected:
            raise ValueError(
                f"{name} is {tensor.dtype} of shape {list(tensor.shape)}, expected {dtypes[0]} of {list(expected)}"
            )
        return tensor

    half_rows = torch.empty(0, dtype=torch.int32)
    half = torch.empty(0, features, dtype=torch.float16)
    if f"{module}.weight_half_rows" in tensors:
        count = tensors[f"{module}.weight_half_rows"].numel()
        half_rows = take("weight_half_rows", (torch.int32,), (count,))
        half = take("weight_half", (torch.float16, torch.bfloat16), (count, features))
    stored = _in_order(outputs)
    if f"{module}.weight_rows" in tensors or rows != outputs:
        stored = take("weight_rows", (torch.int32,), (rows,))
    channels = torch.cat([stored, half_rows])
    if len(channels.unique()) != len(channels) or ((channels < 0) | (channels >= outputs)).any():
        raise ValueError(f"{module} names an output channel twice, or one that it has not")
    plane = padded(features) // 2
    return NestedWeight(
        hi=take("weight_hi", (torch.uint8,), (rows, plane)),
        lo=take("weight_lo", (torch.uint8,), (fine_rows, plane)),
        scale=take("weight_scale", (torch.float32,), (precisions, rows)),
        rows=stored,
        half=half,
        half_rows=half_rows,
        groups=plan.groups,
        in_features=features,
        out_features=outputs,
        block=plan.block,
    )


def _in_order(outputs: int) -> Tensor:
    return torch.arange(outputs, dtype=torch.int32)
