"""The reference of the operator, against its definition computed number by number, and against dense products."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nested_weights import random, weights_and_widths

from vlaq_ros.quant.codes import NestedWeight, decode, join, quantize
from vlaq_ros.quant.hadamard import rotate
from vlaq_ros.quant.kernels.reference import nested_linear

F32 = np.float32


def apply(x: torch.Tensor, weight: NestedWeight, precision: int = 0, bias: torch.Tensor | None = None) -> torch.Tensor:
    return nested_linear(
        x,
        weight.hi,
        weight.lo,
        weight.scale[precision],
        weight.rows,
        bias,
        [number for group in weight.groups for number in (group.rows, group.bits[precision])],
        weight.block,
        weight.out_features,
    )


def butterflies(row: np.ndarray, block: int) -> np.ndarray:
    row = row.copy()
    stride = 1
    while stride < block:
        for k in range(len(row)):
            if not k & stride:
                row[k], row[k + stride] = row[k] + row[k + stride], row[k] - row[k + stride]
        stride *= 2
    return row


def by_definition(
    row: np.ndarray, code: np.ndarray, *, bits: int, scale: np.float32, block: int, bias: np.float32
) -> np.float32:
    """One output: a row of float32 activations [K'] and 8-bit codes [K']."""
    turned = butterflies(row, block)
    largest = np.abs(turned).max()
    inverse = F32(127) / largest
    quantized = [int(np.rint(value * inverse)) for value in turned]
    shifted = [int(c) >> (8 - bits) for c in code]
    exact = sum(q * (c - 2 ** (bits - 1)) for q, c in zip(quantized, shifted, strict=True))
    x_scale = (largest / F32(127)) * F32(block**-0.5)
    return (F32(exact) + F32(0.5) * F32(sum(quantized))) * (x_scale * (scale * F32(2 ** (8 - bits)))) + bias


@given(
    rows=st.integers(1, 3),
    blocks=st.integers(1, 3),
    block=st.sampled_from([16, 32, 64]),
    bits=st.sampled_from([8, 4]),
    magnitude=st.sampled_from([1e-20, 1.0, 1e20]),
    seed=st.integers(0, 2**31),
)
def test_every_bit_is_as_defined(*, rows: int, blocks: int, block: int, bits: int, magnitude: float, seed: int) -> None:
    draws = np.random.default_rng(seed)
    features, outputs = blocks * block, 3
    code = torch.tensor(draws.integers(0, 256, (outputs, features), dtype=np.uint8))
    x = (magnitude * draws.standard_normal((rows, features))).astype(F32)
    scale, bias = draws.random(outputs).astype(F32), draws.standard_normal(outputs).astype(F32)
    y = nested_linear(
        torch.tensor(x),
        join(code >> 4),
        join(code & 15),
        torch.tensor(scale),
        None,
        torch.tensor(bias),
        [outputs, bits],
        block,
        outputs,
    )
    expected = [
        [
            by_definition(row, code[o].numpy(), bits=bits, scale=scale[o], block=block, bias=bias[o])
            for o in range(outputs)
        ]
        for row in x
    ]
    assert np.array_equal(y.numpy(), np.array(expected))


@pytest.mark.parametrize("features", [1024, 1088, 16384])  # both sides of where one float32 sum stops being exact
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_keep_their_last_bit(features: int, sign: int) -> None:
    ones = torch.full((1, features // 2), 255, dtype=torch.uint8)  # every weight is 127.5
    x = torch.zeros(1, features)
    x[:, ::64] = sign * 127.0  # its transform is 127 everywhere
    exact = sign * 127 * 127 * features
    expected = (F32(exact) + F32(0.5) * F32(sign * 127 * features)) * (F32(1) * F32(0.125))
    assert nested_linear(x, ones, ones, torch.ones(1), None, None, [1, 8], 64, 1).item() == expected


@given(weights_and_widths(), st.integers(0, 4), st.booleans(), st.integers(0, 2**31))
def test_equals_rounded_activations_times_decoded_weights(
    drawn: tuple[torch.Tensor, torch.Tensor], rows: int, with_bias: bool, seed: int
) -> None:
    weight, widths = drawn
    nested = quantize(weight, widths)
    x = random(rows, weight.shape[1], seed=seed)
    bias = random(len(weight), seed=seed + 1) if with_bias else None
    turned = rotate(x, nested.block)
    scale = turned.abs().amax(dim=1, keepdim=True) / 127
    rounded = torch.round(turned / scale) * scale
    for precision in (0, 1):
        decoded = decode(nested, precision)
        decoded[nested.half_rows] = 0  # not the operator's
        expected = rounded @ decoded.T + (0 if bias is None else bias)
        torch.testing.assert_close(apply(x, nested, precision, bias), expected, rtol=1e-3, atol=2e-2)


@given(seed=st.integers(0, 2**31), magnitude=st.floats(1e-3, 1e3))
def test_rounding_activations_costs_at_most_half_a_step_each(seed: int, magnitude: float) -> None:
    nested = quantize(random(6, 33))
    x = magnitude * random(4, 33, seed=seed)
    turned, decoded = rotate(x, nested.block), decode(nested, 0)
    error = (apply(x, nested) - turned @ decoded.T).abs()
    half_step = turned.abs().amax(dim=1, keepdim=True) / 127 / 2
    assert bool((error <= half_step * decoded.abs().sum(dim=1) * 1.001).all())


@pytest.mark.parametrize("value", [0.0, 1e-33, -1e-33])
def test_a_row_of_next_to_nothing_gives_the_bias(value: float) -> None:
    bias = torch.tensor([1.0, -2.0])
    assert apply(torch.full((3, 16), value), quantize(random(2, 16)), 1, bias).tolist() == [[1.0, -2.0]] * 3
    assert apply(torch.full((3, 16), value), quantize(random(2, 16))).tolist() == [[0.0, 0.0]] * 3


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38])  # the transform of the last one overflows
@pytest.mark.parametrize("precision", [0, 1])
def test_a_value_that_is_not_finite_spoils_its_row_and_no_other(bad: float, precision: int) -> None:
    weight = quantize(random(4, 80), torch.tensor([[8, 4, 0, 16], [8, 4, 0, 16]]))
    x = random(3, 80, seed=1)
    clean = apply(x, weight, precision, torch.ones(4))
    x[1, 5:7] = bad
    y = apply(x, weight, precision, torch.ones(4))
    assert bool(y[1].isnan().all())
    assert torch.equal(y[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_floats_are_read_exactly_and_rounded_at_the_end(dtype: torch.dtype) -> None:
    weight, bias = quantize(random(7, 48)), random(7, seed=2).to(dtype)
    x = random(5, 48, seed=1).to(dtype)
    y = apply(x, weight, 0, bias)
    assert y.dtype is dtype
    assert torch.equal(y, apply(x.float(), weight, 0, bias.float()).to(dtype))


def test_leading_axes_are_kept() -> None:
    weight, x = quantize(random(7, 48)), random(30, 48, seed=1)
    flat = apply(x, weight)
    assert torch.equal(apply(x.reshape(2, 3, 5, 48), weight), flat.reshape(2, 3, 5, 7))
    assert torch.equal(apply(x[0], weight), flat[0])
    assert apply(x[:0], weight).shape == (0, 7)


def test_strides_do_not_matter() -> None:
    weight, x = quantize(random(7, 48)), random(48, 30, seed=1)
    assert torch.equal(apply(x.T, weight), apply(x.T.contiguous(), weight))
    assert torch.equal(apply(x.T[::3], weight), apply(x.T.contiguous()[::3], weight))
    assert torch.equal(apply(x[:1].T.expand(30, 48), weight), apply(x[:1].T.expand(30, 48).contiguous(), weight))


def test_rows_that_are_not_read_leave_the_bias() -> None:
    nested = quantize(random(3, 16), torch.tensor([[8, 4, 0], [8, 0, 0]]))
    y = apply(random(2, 16, seed=1), nested, 1, torch.tensor([0.0, 1.0, 2.0]))
    assert y[:, 1:].tolist() == [[1.0, 2.0]] * 2
    assert bool(y[:, 0].all())
