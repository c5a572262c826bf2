"""Nested codes: what the planes hold, and how far a decoded weight is from the weight."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vlaq_ros.quant.codes import NestedWeight, bins, decode, quantize

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)
WEIGHTS = hnp.arrays(np.int32, SHAPES, elements=st.integers(-(2**16), 2**16)).map(
    lambda integers: torch.tensor(integers / 1024, dtype=torch.float32)
)


def signal_to_noise_db(weight: torch.Tensor, decoded: torch.Tensor) -> float:
    return float(10 * torch.log10(weight.square().sum() / (weight - decoded).square().sum()))


def test_codes_of_a_row_by_hand() -> None:
    weight = quantize(torch.tensor([[1.0, -1.0, 0.0, 0.5, -0.51]]))  # bins of 1/128
    assert bins(weight, 8).tolist() == [[255, 0, 128, 192, 62]]
    assert bins(weight, 4).tolist() == [[240, 0, 128, 192, 48]]
    # byte j: feature j in the high nibble, feature 3 + j in the low one
    assert weight.hi.tolist() == [[0xFC, 0x03, 0x80]]
    assert weight.lo.tolist() == [[0xF0, 0x0E, 0x00]]
    assert decode(weight, 8).tolist() == [[127.5 / 128, -127.5 / 128, 0.5 / 128, 64.5 / 128, -65.5 / 128]]
    assert decode(weight, 4).tolist() == [[0.9375, -0.9375, 0.0625, 0.5625, -0.5625]]


@given(WEIGHTS)
def test_quantizing_decoded_weights_gives_the_same_bytes(weight: torch.Tensor) -> None:
    first = quantize(weight)
    again = quantize(decode(first, 8))
    assert torch.equal(again.hi, first.hi)
    assert torch.equal(again.lo, first.lo)


@given(shape=SHAPES, data=st.data())
def test_every_byte_of_the_planes_is_read_back(shape: tuple[int, int], data: st.DataObject) -> None:
    outputs, features = shape
    codes = data.draw(hnp.arrays(np.uint8, shape))
    half = (features + 1) // 2
    hi, lo = np.zeros((2, outputs, half), dtype=np.uint8)
    for o, k in np.ndindex(outputs, features):
        shift = 4 if k < half else 0
        hi[o, k % half] |= (codes[o, k] >> 4) << shift
        lo[o, k % half] |= (codes[o, k] & 15) << shift
    weight = NestedWeight(torch.tensor(hi), torch.tensor(lo), torch.ones(outputs), features)
    assert np.array_equal(bins(weight, 8).numpy(), codes)
    assert np.array_equal(bins(weight, 4).numpy(), codes & 0xF0)


@given(WEIGHTS)
def test_a_decoded_weight_is_within_half_a_bin(weight: torch.Tensor) -> None:
    nested = quantize(weight)
    for bits in (8, 4):
        half_bin = nested.scale[:, None] * 2 ** (7 - bits)
        assert bool(((weight - decode(nested, bits)).abs() <= half_bin * 1.0001).all())


def test_a_row_of_zeros_decodes_to_zeros() -> None:
    nested = quantize(torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]]))
    assert decode(nested, 8)[0].tolist() == decode(nested, 4)[0].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("features", [96, 384])
def test_the_error_is_even_handed_and_small(features: int) -> None:
    weight = torch.randn(256, features, generator=torch.Generator().manual_seed(0))
    nested = quantize(weight)
    for bits, expected_db in ((8, 42.5), (4, 18.5)):
        assert torch.equal(decode(quantize(-weight), bits), -decode(nested, bits))
        assert signal_to_noise_db(weight, decode(nested, bits)) > expected_db


def test_four_nested_bits_are_no_worse_than_four_bits_of_their_own() -> None:
    weight = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    scale = weight.abs().amax(dim=1, keepdim=True) / 7
    alone = torch.round(weight / scale) * scale
    assert signal_to_noise_db(weight, decode(quantize(weight), 4)) >= signal_to_noise_db(weight, alone)


@given(SHAPES)
def test_both_widths_together_hold_one_byte_per_weight(shape: tuple[int, int]) -> None:
    outputs, features = shape
    nested = quantize(torch.ones(shape))
    assert nested.hi.nbytes + nested.lo.nbytes == outputs * (features + features % 2)
    assert nested.scale.shape == (outputs,)
