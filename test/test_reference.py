"""The reference linear over nested codes, against exact integer arithmetic and against the decoded weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlaq_ros.quant.codes import NestedWeight, bins, centre, decode, quantize
from vlaq_ros.quant.kernels.reference import nested_linear


def random_weight(outputs: int, features: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(outputs, features, generator=torch.Generator().manual_seed(seed))


@given(
    features=st.integers(1, 60),
    bits=st.sampled_from([8, 4]),
    seed=st.integers(0, 2**31),
)
def test_integers_are_multiplied_exactly(features: int, bits: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    half = (features + 1) // 2
    planes = random.integers(0, 256, (2, 5, half), dtype=np.uint8)
    weight = NestedWeight(torch.tensor(planes[0]), torch.tensor(planes[1]), torch.ones(5), features)
    x = random.integers(-127, 128, (3, features))
    x[:, 0] = 127  # the scale of every row is then 1
    codes = bins(weight, bits).numpy().astype(np.int64)
    expected = (2 * x) @ codes.T + round(2 * centre(bits)) * x.sum(axis=1, keepdims=True)
    y = nested_linear(torch.tensor(x, dtype=torch.float32), weight, bits, None)
    assert np.array_equal(2 * y.numpy(), expected)


@pytest.mark.parametrize("features", [517, 519, 4096])  # both sides of where float32 stops being exact
def test_the_largest_sums_keep_their_last_bit(features: int) -> None:
    ones = torch.full((1, (features + 1) // 2), 255, dtype=torch.uint8)
    weight = NestedWeight(ones, ones, torch.ones(1), features)  # every weight is 127.5
    x = torch.full((1, features), 127.0)
    expected = 127 * 127.5 * features
    assert nested_linear(x, weight, 8, None).item() == pytest.approx(expected, rel=2 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("bits", [8, 4])
def test_equals_rounded_activations_times_decoded_weights(bits: int) -> None:
    weight = quantize(random_weight(24, 65))
    bias = random_weight(1, 24, seed=1)[0]
    x = random_weight(10, 65, seed=2)
    scale = x.abs().amax(dim=1, keepdim=True) / 127
    expected = (torch.round(x / scale) * scale).double() @ decode(weight, bits).double().T + bias
    torch.testing.assert_close(nested_linear(x, weight, bits, bias).double(), expected, rtol=1e-5, atol=1e-5)


@given(seed=st.integers(0, 2**31), magnitude=st.floats(1e-3, 1e3))
def test_rounding_activations_costs_at_most_half_a_step_each(seed: int, magnitude: float) -> None:
    weight = quantize(random_weight(6, 33))
    x = magnitude * random_weight(4, 33, seed)
    decoded = decode(weight, 8)
    error = (nested_linear(x, weight, 8, None) - x @ decoded.T).abs()
    half_step = x.abs().amax(dim=1, keepdim=True) / 127 / 2
    assert bool((error <= half_step * decoded.abs().sum(dim=1) * 1.001).all())


def test_a_row_of_zeros_gives_the_bias() -> None:
    bias = torch.tensor([1.0, -2.0])
    y = nested_linear(torch.zeros(3, 8), quantize(random_weight(2, 8)), 4, bias)
    assert y.tolist() == [[1.0, -2.0]] * 3


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("bits", [8, 4])
def test_a_value_that_is_not_finite_spoils_its_row_and_no_other(bad: float, bits: int) -> None:
    weight = quantize(random_weight(4, 9))
    x = random_weight(3, 9, seed=1)
    clean = nested_linear(x, weight, bits, None)
    x[1, 5] = bad
    y = nested_linear(x, weight, bits, None)
    assert bool(y[1].isnan().all())
    assert torch.equal(y[[0, 2]], clean[[0, 2]])


def test_leading_axes_and_dtype_are_kept() -> None:
    weight = quantize(random_weight(7, 12))
    x = random_weight(30, 12, seed=1)
    flat = nested_linear(x, weight, 8, None)
    assert torch.equal(nested_linear(x.reshape(2, 3, 5, 12), weight, 8, None), flat.reshape(2, 3, 5, 7))
    assert nested_linear(x.bfloat16(), weight, 8, None).dtype is torch.bfloat16
