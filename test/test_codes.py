"""Nested codes: what the planes hold, which rows are stored, and how far a decoded weight is from the weight."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from nested_weights import random, weights_and_widths

from vlaq_ros.quant.codes import NestedWeight, RowGroup, decode, join, nibbles, quantize, signed
from vlaq_ros.quant.hadamard import padded, rotate

EVEN_SHAPES = st.tuples(st.integers(0, 9), st.integers(1, 20).map(lambda half: 2 * half))


def signal_to_noise_db(weight: torch.Tensor, decoded: torch.Tensor) -> float:
    return float(10 * torch.log10(weight.square().sum() / (weight - decoded).square().sum()))


def rotated(weight: torch.Tensor, nested: NestedWeight) -> torch.Tensor:
    return rotate(weight, nested.block)


def test_codes_of_a_row_by_hand() -> None:
    in_bins = torch.tensor([[128.0, -128.0, 0.0, 64.0, -65.3, *[0.0] * 11]])  # of 1/128
    nested = quantize(rotate(in_bins / 128, 16))
    code = [255, 0, 128, 192, 62, *[128] * 11]
    assert nested.scale.tolist() == [[1 / 128]] * 2
    # byte j: feature j in the high nibble, feature 8 + j in the low one
    assert nested.hi.tolist() == [[(code[j] & 0xF0) | (code[8 + j] >> 4) for j in range(8)]]
    assert nested.lo.tolist() == [[(code[j] << 4 & 0xF0) | (code[8 + j] & 0x0F) for j in range(8)]]
    assert decode(nested, 0)[0, :5].tolist() == [127.5 / 128, -127.5 / 128, 0.5 / 128, 64.5 / 128, -65.5 / 128]
    assert decode(nested, 1)[0, :5].tolist() == [0.9375, -0.9375, 0.0625, 0.5625, -0.5625]


@given(st.data())
def test_a_plane_gives_back_its_nibbles(data: st.DataObject) -> None:
    values = torch.tensor(data.draw(hnp.arrays(np.uint8, EVEN_SHAPES, elements=st.integers(0, 15))))
    assert torch.equal(nibbles(join(values)), values)


@given(st.data())
def test_nibbles_give_back_their_plane(data: st.DataObject) -> None:
    plane = torch.tensor(data.draw(hnp.arrays(np.uint8, EVEN_SHAPES)))
    assert torch.equal(join(nibbles(plane)), plane)


def test_the_short_code_is_the_high_nibble_of_the_long_one() -> None:
    code = torch.arange(256, dtype=torch.uint8)
    long, short = signed(code >> 4, code & 15), signed(code >> 4, None)
    assert long.tolist() == list(range(-128, 128))
    assert torch.equal(short, long >> 4)


@given(weights_and_widths())
def test_a_decoded_weight_is_within_half_a_bin_unless_it_was_clipped(drawn: tuple[torch.Tensor, torch.Tensor]) -> None:
    weight, widths = drawn
    nested = quantize(weight, widths)
    expected = rotated(weight, nested)
    for precision, bits in enumerate(widths):
        decoded = decode(nested, precision)
        step = torch.zeros(len(weight))
        step[nested.rows] = nested.scale[precision]
        half_bin = (step * 2.0 ** (7 - bits))[:, None]
        inside = expected.abs() <= 128 * step[:, None] * 1.00001
        coded = (bits == 8) | (bits == 4)
        near = (expected - decoded).abs() <= half_bin * 1.001
        assert bool((near | ~inside)[coded].all())
        assert bool(inside[widths[0] == 8].all())
        assert not decoded[bits == 0].any()
        torch.testing.assert_close(decoded[bits == 16], expected[bits == 16], rtol=1e-3, atol=1e-3)


@given(weights_and_widths())
def test_rows_are_stored_in_falling_order_of_their_widths(drawn: tuple[torch.Tensor, torch.Tensor]) -> None:
    weight, widths = drawn
    nested = quantize(weight, widths)
    stored = [bits for group in nested.groups for bits in [group.bits] * group.rows]
    assert stored == sorted(stored, reverse=True)
    assert [tuple(bits) for bits in widths[:, nested.rows].T.tolist()] == stored
    assert len({group.bits for group in nested.groups}) == len(nested.groups)
    features = padded(weight.shape[1])
    assert nested.hi.shape == (len(stored), features // 2)
    assert nested.lo.shape == (sum(bits[0] == 8 for bits in stored), features // 2)
    assert nested.scale.shape == (2, len(stored))
    assert nested.half.shape == (int((widths[0] == 16).sum()), weight.shape[1])
    dropped = set(range(len(weight))) - set(nested.rows.tolist()) - set(nested.half_rows.tolist())
    assert dropped == set(torch.nonzero(widths[0] == 0)[:, 0].tolist())


def test_all_channels_have_8_and_4_bits_by_default() -> None:
    weight = random(5, 48)
    nested, asked = quantize(weight), quantize(weight, torch.tensor([[8] * 5, [4] * 5]))
    assert nested.groups == asked.groups == (RowGroup(5, (8, 4)),)
    assert nested.rows.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(nested.hi, asked.hi)
    assert nested.hi.nbytes + nested.lo.nbytes == 5 * 48


def test_a_row_keeps_its_code_wherever_it_is_stored() -> None:
    weight = random(4, 32)
    mixed = quantize(weight, torch.tensor([[4, 8, 8, 16], [4, 4, 8, 16]]))
    assert mixed.rows.tolist() == [2, 1, 0]
    plain = quantize(weight)
    assert torch.equal(mixed.lo, plain.lo[[2, 1]])
    assert torch.equal(mixed.hi[:2], plain.hi[[2, 1]])
    assert torch.equal(mixed.half, weight[3:].half())


@pytest.mark.parametrize(("dtype", "held"), [(torch.bfloat16, torch.bfloat16), (torch.float32, torch.float16)])
def test_16_bit_channels_keep_the_dtype_of_a_bfloat16_checkpoint(dtype: torch.dtype, held: torch.dtype) -> None:
    assert quantize(random(2, 16).to(dtype), torch.full((1, 2), 16)).half.dtype is held


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ([[4], [8]], r"a channel has widths \(4, 8\), expected 8, 4 or 0 and never rising, or 16 in all"),
        ([[16], [8]], r"a channel has widths \(16, 8\), expected"),
        ([[2], [2]], r"a channel has widths \(2, 2\), expected"),
        ([[8, 8]], r"widths have shape \(1, 2\), expected \[precisions, 1\]"),
        ([8], r"widths have shape \(1,\), expected \[precisions, 1\]"),
    ],
)
def test_other_widths_are_refused(widths: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantize(random(1, 16), torch.tensor(widths))


def test_a_row_of_zeros_decodes_to_zeros() -> None:
    nested = quantize(torch.tensor([[0.0] * 16, [1.0] * 16]))
    assert not decode(nested, 0)[0].any()
    assert not decode(nested, 1)[0].any()


@pytest.mark.parametrize("features", [96, 384, 2048])
@pytest.mark.parametrize("spike", [1, 20])
def test_the_error_is_small_whatever_the_weights(features: int, spike: float) -> None:
    weight = random(128, features)
    weight[:, ::500] *= spike
    nested = quantize(weight)
    for precision, expected_db in ((0, 39.5), (1, 15.5)):
        assert signal_to_noise_db(rotated(weight, nested), decode(nested, precision)) > expected_db


def test_the_error_is_even_handed() -> None:
    weight = random(128, 384)
    nested, mirrored = quantize(weight), quantize(-weight)
    for precision in (0, 1):
        assert torch.equal(decode(mirrored, precision), -decode(nested, precision))


def test_four_nested_bits_are_no_worse_than_four_bits_of_their_own() -> None:
    weight = random(256, 256)
    nested = quantize(weight)
    turned = rotated(weight, nested)
    scale = turned.abs().amax(dim=1, keepdim=True) / 7
    alone = torch.round(turned / scale) * scale
    assert signal_to_noise_db(turned, decode(nested, 1)) >= signal_to_noise_db(turned, alone)


def test_rows_without_8_bits_are_clipped_for_4() -> None:
    weight = random(128, 2048)
    nested = quantize(weight)
    alone = quantize(weight, torch.full((1, 128), 4))
    turned = rotated(weight, nested)
    gained_db = signal_to_noise_db(turned, decode(alone, 0)) - signal_to_noise_db(turned, decode(nested, 1))
    assert gained_db > 1.5
    assert bool((alone.scale[0] <= nested.scale[1]).all())
