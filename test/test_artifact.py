"""Layers in a file: every NestedWeight comes back bit for bit, and what does not fit its layer is told."""

from __future__ import annotations

import re
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nested_weights import random, weights_and_widths
from safetensors.torch import load, save
from torch import Tensor

from vlaq_ros.policy import artifact
from vlaq_ros.policy.manifest import LayerPlan
from vlaq_ros.quant.codes import NestedWeight, RowGroup, quantize

MIXED = torch.tensor([[8, 4, 0, 8, 16], [4, 4, 0, 8, 16]])  # the widths of 5 output channels


def same(one: object, other: object) -> bool:
    """Say whether two fields are equal; of tensors without elements the dtype means nothing."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        alike = one.dtype == other.dtype or not one.numel()
        return alike and one.shape == other.shape and one.tolist() == other.tolist()
    return one == other


def stored(weight: NestedWeight) -> dict[str, Tensor]:
    """The tensors of a layer as a file gives them back."""
    return load(save(artifact.entries("layer", weight)))


def read(weight: NestedWeight, tensors: dict[str, Tensor]) -> NestedWeight:
    shape = torch.Size([weight.out_features, weight.in_features])
    return artifact.nested("layer", LayerPlan(weight.block, weight.groups), len(weight.scale), shape, tensors)


@given(weights_and_widths(), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_a_layer_comes_back_bit_for_bit(drawn: tuple[Tensor, Tensor], dtype: torch.dtype) -> None:
    weight, widths = drawn
    written = quantize(weight.to(dtype), widths)
    tensors = stored(written) | {"layer.bias": torch.zeros(1), "other.weight": torch.zeros(2)}
    got = read(written, tensors)
    for field in fields(NestedWeight):
        assert same(getattr(got, field.name), getattr(written, field.name)), field.name
    assert tensors.keys() == {"layer.bias", "other.weight"}  # the layer's own are taken


def test_what_follows_from_the_shape_is_left_out() -> None:
    plain = {"layer.weight_hi", "layer.weight_lo", "layer.weight_scale"}
    assert stored(quantize(random(5, 32))).keys() == plain
    pruned = torch.tensor([[8, 8, 8, 8, 0], [4, 4, 4, 4, 0]])
    assert stored(quantize(random(5, 32), pruned)).keys() == plain | {"layer.weight_rows"}
    further = {"layer.weight_rows", "layer.weight_half", "layer.weight_half_rows"}
    assert stored(quantize(random(5, 32), MIXED)).keys() == plain | further


def test_two_widths_take_one_byte_a_weight() -> None:
    tensors = stored(quantize(random(64, 256)))
    assert tensors["layer.weight_hi"].nbytes + tensors["layer.weight_lo"].nbytes == 64 * 256


@pytest.mark.parametrize(
    ("name", "tensor", "why"),
    [
        ("weight_hi", None, "layer.weight_hi is missing"),
        ("weight_lo", None, "layer.weight_lo is missing"),
        ("weight_scale", None, "layer.weight_scale is missing"),
        ("weight_rows", None, "layer.weight_rows is missing"),
        ("weight_half", None, "layer.weight_half is missing"),
        (
            "weight_hi",
            torch.zeros(3, 15, dtype=torch.uint8),
            "layer.weight_hi is torch.uint8 of shape [3, 15], expected torch.uint8 of [3, 16]",
        ),
        (
            "weight_lo",
            torch.zeros(3, 16, dtype=torch.uint8),
            "layer.weight_lo is torch.uint8 of shape [3, 16], expected torch.uint8 of [2, 16]",
        ),
        (
            "weight_scale",
            torch.ones(2, 3, dtype=torch.float16),
            "layer.weight_scale is torch.float16 of shape [2, 3], expected torch.float32 of [2, 3]",
        ),
        (
            "weight_scale",
            torch.ones(1, 3),
            "layer.weight_scale is torch.float32 of shape [1, 3], expected torch.float32 of [2, 3]",
        ),
        (
            "weight_rows",
            torch.tensor([3, 0, 1]),
            "layer.weight_rows is torch.int64 of shape [3], expected torch.int32 of [3]",
        ),
        (
            "weight_half",
            torch.zeros(1, 32),
            "layer.weight_half is torch.float32 of shape [1, 32], expected torch.float16 of [1, 32]",
        ),
        (
            "weight_half_rows",
            torch.tensor(4, dtype=torch.int32),
            "layer.weight_half_rows is torch.int32 of shape [], expected torch.int32 of [1]",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(name: str, tensor: Tensor | None, why: str) -> None:
    weight = quantize(random(5, 32), MIXED)
    tensors = stored(weight)
    tensors.pop(f"layer.{name}")
    if tensor is not None:
        tensors[f"layer.{name}"] = tensor
    with pytest.raises(ValueError, match=f"^{re.escape(why)}$"):
        read(weight, tensors)


@pytest.mark.parametrize(
    ("rows", "half_rows"),
    [([3, 0, 0], [4]), ([3, 0, 4], [4]), ([3, 0, 5], [4]), ([3, 0, -1], [4]), ([3, 0, 1], [5]), ([3, 0, 1], [3])],
)
def test_an_output_channel_has_one_place(rows: list[int], half_rows: list[int]) -> None:
    weight = quantize(random(5, 32), MIXED)
    tensors = stored(weight)
    tensors["layer.weight_rows"] = torch.tensor(rows, dtype=torch.int32)
    tensors["layer.weight_half_rows"] = torch.tensor(half_rows, dtype=torch.int32)
    with pytest.raises(ValueError, match="layer names an output channel twice, or one that it has not"):
        read(weight, tensors)


def test_another_rotation_is_refused() -> None:
    weight = quantize(random(5, 32))
    with pytest.raises(ValueError, match="layer is rotated in blocks of 64, expected 32"):
        read(replace(weight, block=64), stored(weight))


@pytest.mark.parametrize("bits", [((4, 4), (8, 4)), ((8, 4), (8, 8)), ((8, 4), (8, 4))])
def test_rows_that_do_not_lie_in_falling_order_of_their_widths_are_refused(bits: tuple[tuple[int, int], ...]) -> None:
    weight = quantize(random(4, 32))
    out_of_order = replace(weight, groups=tuple(RowGroup(2, each) for each in bits))
    why = re.escape(f"layer has groups of rows with widths {list(bits)}, expected them falling")
    with pytest.raises(ValueError, match=f"^{why}$"):
        read(out_of_order, stored(weight))
