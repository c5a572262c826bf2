"""Rounding with feedback: against every choice of codes where there are few, and against the nearest ones."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nested_weights import random

from vlaq_ros.quant.codes import decode, quantize
from vlaq_ros.quant.hadamard import rotate
from vlaq_ros.quant.rounding import Rounding, cheapest, feedback, inverse_factor, nearest


def moment_of(features: int, seed: int = 0, samples: int = 2000) -> torch.Tensor:
    """Strongly correlated features, as activations are."""
    x = random(samples, features, seed=seed) @ random(features, features, seed=seed + 1) ** 3
    return x.T @ x / samples


def values(code: torch.Tensor, bits: int) -> torch.Tensor:
    """In 8-bit bins."""
    step = 2 ** (8 - bits)
    return (code // step + 0.5) * step - 128


def cost(weight: torch.Tensor, code: torch.Tensor, moment: torch.Tensor, widths: set[int]) -> torch.Tensor:
    """The objective for every row: squared errors of the output, in their widths' units."""
    total = torch.zeros(len(weight))
    for bits in widths:
        error = weight - values(code, bits)
        total += ((error @ moment) * error).sum(dim=1) / 2 ** (8 - bits)
    return total


@given(
    st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=20),
    st.sampled_from([(8, 8), (8, 4), (4, 4)]),
    st.sampled_from([0.0, 1e-6, 1.0]),
)
def test_without_correlation_the_nearest_code_is_the_best(
    weight: list[float], widths: tuple[int, int], power: float
) -> None:
    row = torch.tensor([weight])
    code = feedback(power * torch.eye(len(weight)))(row, torch.tensor(widths)[:, None])
    for bits in set(widths):
        torch.testing.assert_close(
            (row - values(code, bits)).abs(), (row - values(nearest(row), bits)).abs(), rtol=0, atol=1e-3
        )


@given(
    st.lists(st.tuples(st.floats(-200, 200, width=32), st.floats(-200, 200, width=32)), min_size=1, max_size=20),
    st.sampled_from([(1.0, 0.0), (1.0, 1 / 16), (0.0, 1 / 16), (1.0, 1.0), (0.01, 1.0)]),
)
def test_the_cheapest_code_costs_least_of_all_256(
    wanted: list[tuple[float, float]], costs: tuple[float, float]
) -> None:
    pair, price = torch.tensor(wanted).T, torch.tensor(costs)[:, None].expand(2, len(wanted))
    code, stood_for = cheapest(pair, price)
    every = torch.stack([values(torch.arange(256), bits) for bits in (8, 4)])
    assert torch.equal(stood_for, every[:, code.long()])
    errors = ((pair[:, :, None] - every[:, None]).square() * price[:, :, None]).sum(dim=0)
    torch.testing.assert_close(errors.gather(1, code.long()[:, None])[:, 0], errors.min(dim=1).values)


def test_the_factor_is_upper_and_makes_the_inverse_of_damped_moments() -> None:
    moment = moment_of(40).double()
    before = moment.clone()
    factor = inverse_factor(moment)
    assert torch.equal(moment, before)
    assert torch.equal(factor, factor.triu())
    damped = moment + 0.01 * moment.diagonal().mean() * torch.eye(40)
    torch.testing.assert_close(factor.T @ factor @ damped, torch.eye(40, dtype=torch.float64), rtol=0, atol=1e-8)


@pytest.mark.parametrize(("widths", "won"), [({8}, 0.9), ({4}, 0.7), ({8, 4}, 0.9)])
def test_feedback_lies_between_the_best_of_all_codes_and_the_nearest(widths: set[int], won: float) -> None:
    rows = 60
    moment = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    weight = (40 * random(rows, 2)).clamp(-120, 120)
    code = feedback(moment)(weight, torch.tensor(sorted(widths))[:, None].expand(-1, rows))
    every = torch.tensor(list(itertools.product(range(256), repeat=2)))
    best = torch.stack([cost(row.expand(len(every), 2), every, moment, widths).min() for row in weight])
    reached = cost(weight, code, moment, widths)
    assert bool((reached >= best * 0.999).all())
    assert reached.mean() < won * cost(weight, nearest(weight), moment, widths).mean()


@given(features=st.integers(1, 300), seed=st.integers(0, 2**31))
def test_whatever_comes_out_is_a_code(features: int, seed: int) -> None:
    code = feedback(moment_of(features, seed))(
        80 * random(3, features, seed=seed), torch.tensor([[8, 8, 4], [8, 4, 4]])
    )
    assert code.shape == (3, features)
    assert code.dtype is torch.uint8


@pytest.mark.parametrize("features", [1, 2, 5, 30, 200])
@pytest.mark.parametrize("widths", [{8}, {4}, {8, 4}])
def test_feedback_is_on_average_no_worse_than_the_nearest_codes(features: int, widths: set[int]) -> None:
    ratios = []
    for seed in range(10):
        weight = (45 * random(20, features, seed=seed)).clamp(-120, 120)
        moment = moment_of(features, seed)
        code = feedback(moment)(weight, torch.tensor(sorted(widths))[:, None].expand(-1, 20))
        plain = cost(weight, nearest(weight), moment, widths)
        ratios.append(float(cost(weight, code, moment, widths).sum() / plain.sum()))
    assert sum(ratios) / len(ratios) <= (1.0001 if features < 5 else 0.9)


def test_features_that_were_never_active_do_no_harm() -> None:
    moment = torch.zeros(32, 32)
    moment[:16, :16] = moment_of(16)
    weight = (45 * random(4, 32)).clamp(-120, 120)
    code = feedback(moment)(weight, torch.tensor([[8] * 4]))
    assert bool(((weight - values(code, 8))[:, 16:].abs() <= 0.501).all())


def test_what_feedback_is_worth_to_a_layer() -> None:
    x = random(2000, 384) @ random(384, 384, seed=1) ** 3
    weight = random(64, 384, seed=2)
    turned = rotate(x, 64)
    exact = x @ weight.T

    def signal_to_noise_db(rounding: Rounding | None, precision: int) -> float:
        decoded = decode(quantize(weight, rounding=rounding), precision)
        return float(10 * torch.log10(exact.square().sum() / (exact - turned @ decoded.T).square().sum()))

    aware = feedback(turned.T @ turned / len(turned))
    assert signal_to_noise_db(aware, 1) > signal_to_noise_db(None, 1) + 1.5
    assert signal_to_noise_db(aware, 0) > signal_to_noise_db(None, 0) - 3
