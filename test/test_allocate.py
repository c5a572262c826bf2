"""Widths under a budget: against the best of all, and what holds of any."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vlaq_ros.calibrate.allocate import Allocation, Budget, layerwise, precisions, queue, staged, uniform
from vlaq_ros.calibrate.storage import WIDTHS, over_bf16
from vlaq_ros.errors import BudgetError
from vlaq_ros.quant import codes

METHODS = (staged, queue, layerwise)
Method = Callable[..., Allocation]
Problem = tuple[dict[str, torch.Tensor], dict[str, torch.Size]]


def problem(*shapes: tuple[int, int], seed: int = 0, convex: bool = True) -> Problem:
    """Random sensitivities that rise towards narrower channels; convex, every bit less adds more than that before."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(outputs: int, low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(outputs, generator=generator, dtype=torch.float64)

    sensitivity = {}
    for index, (outputs, _) in enumerate(shapes):
        slope = drawn(outputs, 0.5, 1) * 10 ** drawn(outputs, -2, 1)
        steps = [8 * slope]
        for _ in range(2):
            slope = slope * (drawn(outputs, 2, 50) if convex else 10 ** drawn(outputs, -1.5, 1.5))
            steps.append(4 * slope)
        sensitivity[f"layer{index}"] = torch.stack([torch.zeros(outputs, dtype=torch.float64), *steps]).cumsum(0)
    return sensitivity, {f"layer{index}": torch.Size(shape) for index, shape in enumerate(shapes)}


def all_widths(allocation: Allocation) -> torch.Tensor:
    return torch.cat(list(allocation.widths.values()))


def mean_bits(allocation: Allocation) -> float:
    return float(all_widths(allocation).double().mean())


def bits_taken(allocation: Allocation) -> int:
    return int(all_widths(allocation).sum())


def error(sensitivity: Mapping[str, torch.Tensor], allocation: Allocation) -> float:
    return sum(
        float(sensitivity[name][WIDTHS.index(int(width)), row])
        for name, widths in allocation.widths.items()
        for row, width in enumerate(widths)
    )


def optimum(sensitivity: Mapping[str, torch.Tensor], budget_bits: float) -> float:
    """Give the least error of any widths but 0, at most `budget_bits` for all channels together."""
    best = {0: 0.0}  # bits taken -> error
    for channel in torch.cat(list(sensitivity.values()), dim=1).T.tolist():
        taken: dict[int, float] = {}
        for (bits, total), width in itertools.product(best.items(), range(3)):
            after = bits + WIDTHS[width]
            taken[after] = min(taken.get(after, torch.inf), total + channel[width])
        best = taken
    return min(total for bits, total in best.items() if bits <= budget_bits)


SEEDS = st.integers(0, 2**31)
SMALL = st.builds(lambda a, b, seed: problem((a, 64), (b, 128), seed=seed), st.integers(1, 7), st.integers(1, 7), SEEDS)


def test_the_oracle_equals_trying_all() -> None:
    sensitivity, _ = problem((6, 64))
    (errors,) = sensitivity.values()
    tried = [
        sum(float(errors[width, row]) for row, width in enumerate(widths))
        for widths in itertools.product(range(3), repeat=6)
        if sum(WIDTHS[width] for width in widths) <= 40
    ]
    assert optimum(sensitivity, 40) == pytest.approx(min(tried))


@given(SMALL, st.integers(0, 39))
def test_the_queue_is_the_optimum_where_it_stops_and_within_a_step_elsewhere(drawn: Problem, steps: int) -> None:
    sensitivity, shapes = drawn
    rows = sum(shape[0] for shape in shapes.values())
    budget = 4 + 12 * steps / 39
    answer = queue(sensitivity, shapes, Budget.bits(budget))
    assert answer.predicted == pytest.approx(optimum(sensitivity, bits_taken(answer)))
    largest = max(float(errors[:3].diff(dim=0).max()) for errors in sensitivity.values())
    assert answer.predicted <= optimum(sensitivity, rows * budget) + largest


def test_the_gap_of_the_queue_where_a_step_hides_a_cheaper_one() -> None:
    """It does not look ahead: where 8 bits are dear and 4 hardly dearer, other channels are narrowed first."""
    gaps = []
    for seed in range(40):
        sensitivity, shapes = problem((12, 64), seed=seed, convex=False)
        answer = queue(sensitivity, shapes, Budget.bits(8.0))
        gaps.append(answer.predicted / optimum(sensitivity, bits_taken(answer)))
    assert min(gaps) >= 1 - 1e-9
    assert sum(gaps) / len(gaps) < 1.05
    assert 1.1 < max(gaps) < 1.2


@given(SMALL, st.integers(40, 160).map(lambda tenths: tenths / 10))
def test_layerwise_is_the_optimum_of_one_width_a_layer(drawn: Problem, budget: float) -> None:
    sensitivity, shapes = drawn
    rows = sum(shape[0] for shape in shapes.values())
    tried = [
        sum(
            float(errors[WIDTHS.index(width)].sum()) for errors, width in zip(sensitivity.values(), widths, strict=True)
        )
        for widths in itertools.product((16, 8, 4), repeat=2)
        if sum(shape[0] * width for shape, width in zip(shapes.values(), widths, strict=True)) <= rows * budget
    ]
    answer = layerwise(sensitivity, shapes, Budget.bits(budget))
    assert answer.predicted == pytest.approx(min(tried), rel=2e-4)
    assert all(len(widths.unique()) == 1 for widths in answer.widths.values())


MIXED = st.builds(
    lambda sizes, seed, convex: problem(*sizes, seed=seed, convex=convex),
    st.lists(st.tuples(st.integers(32, 300), st.integers(32, 200)), min_size=1, max_size=3),
    SEEDS,
    st.booleans(),
)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=40)
@given(MIXED, st.floats(0, 1))
def test_a_budget_is_kept_and_the_facts_are_the_answers_own(method: Method, drawn: Problem, share: float) -> None:
    sensitivity, shapes = drawn
    narrow, wide = (uniform(sensitivity, shapes, width).bytes_over_bf16 for width in (4, 16))
    for budget, held in (
        (Budget.bits(4 + 12 * share), mean_bits),
        (Budget.bytes(narrow + share * (wide - narrow)), lambda answer: answer.bytes_over_bf16),
    ):
        answer = method(sensitivity, shapes, budget)
        assert held(answer) <= budget.limit * (1 + 1e-12)
        assert answer.predicted == pytest.approx(error(sensitivity, answer))
        assert answer.bytes_over_bf16 == over_bf16(shapes, answer.widths)
        assert {name: len(widths) for name, widths in answer.widths.items()} == {n: s[0] for n, s in shapes.items()}


def test_4_bits_throughout_are_within_reach_of_a_queue_that_would_prune_before_it_gets_there() -> None:
    sensitivity, shapes = problem((273, 32), seed=0, convex=False)
    least = uniform(sensitivity, shapes, 4).bytes_over_bf16
    assert queue(sensitivity, shapes, Budget.bytes(least)).bytes_over_bf16 == least
    with pytest.raises(BudgetError):
        queue(sensitivity, shapes, Budget.bytes(0.99 * least))


@given(MIXED, st.floats(4, 16), st.floats(4, 16))
def test_more_bits_narrow_no_channel(drawn: Problem, one: float, other: float) -> None:
    less, more = (queue(*drawn, Budget.bits(limit)) for limit in sorted([one, other]))
    assert (all_widths(less) <= all_widths(more)).all()
    assert less.predicted >= more.predicted


@given(MIXED, st.floats(0.3, 0.95))
def test_tiles_are_full(drawn: Problem, limit: float) -> None:
    sensitivity, shapes = drawn
    assume(uniform(sensitivity, shapes, 4).bytes_over_bf16 <= limit)
    for widths in queue(sensitivity, shapes, Budget.bytes(limit)).widths.values():
        eight, four = ((widths == bits).sum() for bits in (8, 4))
        assert eight % 16 == 0 or four == 0


def test_bytes_buy_more_when_spent_by_the_tile() -> None:
    sensitivity, shapes = problem((256, 128), (512, 256), (256, 512))
    by_tile = queue(sensitivity, shapes, Budget.bytes(0.4))
    assert by_tile.predicted < layerwise(sensitivity, shapes, Budget.bytes(0.4)).predicted
    in_bits = queue(sensitivity, shapes, Budget.bits(mean_bits(by_tile)))
    assert in_bits.bytes_over_bf16 > by_tile.bytes_over_bf16  # long rows and short ones count alike there


@given(MIXED, st.floats(4, 16))
def test_stages_follow_each_other_and_stop_at_the_budget(drawn: Problem, limit: float) -> None:
    sensitivity, shapes = drawn
    answer = staged(sensitivity, shapes, Budget.bits(limit))
    widths = all_widths(answer)
    assert not ({16} & set(widths.tolist()) and {4, 0} & set(widths.tolist()))  # the paper's histogram has both
    last_saving = 8 if 16 in widths or (widths == 8).all() else 4
    assert limit - last_saving / len(widths) < mean_bits(answer) <= limit * (1 + 1e-12)


def test_8_bits_in_the_mean_are_8_bits_in_stages_and_any_width_in_the_queue() -> None:
    drawn = problem((400, 64))
    assert (all_widths(staged(*drawn, Budget.bits(8.0))) == 8).all()
    assert {16, 8, 4} <= set(all_widths(queue(*drawn, Budget.bits(8.0))).tolist())


def test_the_cheapest_go_first() -> None:
    sensitivity = {"layer": torch.tensor([[0.0, 0, 0], [3, 1, 2], [9, 8, 4], [99, 99, 99]])}
    shapes = {"layer": torch.Size((3, 64))}
    widths = [staged(sensitivity, shapes, Budget.bits(bits / 3)).widths["layer"].tolist() for bits in (48, 40, 32, 24)]
    assert widths == [[16, 16, 16], [16, 8, 16], [16, 8, 8], [8, 8, 8]]
    assert staged(sensitivity, shapes, Budget.bits(20 / 3)).widths["layer"].tolist() == [8, 8, 4]


@pytest.mark.parametrize("method", [staged, queue])
def test_pruning_is_guarded(method: Method) -> None:
    sensitivity, shapes = problem((250, 64), (50, 64))
    for errors in sensitivity.values():
        errors[3, :40] = errors[2, :40]  # pruning these adds nothing to 4 bits
        errors[2:, 20:40] += 1e6  # but these are dear with 4 bits
    with pytest.raises(BudgetError):
        method(sensitivity, shapes, Budget.bits(3.9))
    answer = method(sensitivity, shapes, Budget.bits(3.98))
    pruned = {name: (widths == 0).nonzero()[:, 0].tolist() for name, widths in answer.widths.items()}
    assert pruned["layer1"] == []  # not even one is a percent of 50
    assert 0 < len(pruned["layer0"]) <= 2
    assert set(pruned["layer0"]) <= set(range(20))


@pytest.mark.parametrize("method", METHODS)
def test_given_widths_stay(method: Method) -> None:
    sensitivity, shapes = problem((64, 64), (64, 64), (64, 64))
    answer = method(sensitivity, shapes, Budget.bits(8.0), fixed={"layer0": 16, "layer2": 4})
    assert (answer.widths["layer0"] == 16).all()
    assert (answer.widths["layer2"] == 4).all()
    assert mean_bits(answer) <= 8
    with pytest.raises(BudgetError, match="expected 8, the least that can be, to 12, what 16 bits need"):
        method(sensitivity, shapes, Budget.bits(7.9), fixed={"layer0": 16, "layer2": 4})


def test_uniform_is_one_width_but_for_given_layers() -> None:
    sensitivity, shapes = problem((64, 64), (64, 64))
    answer = uniform(sensitivity, shapes, 4, fixed={"layer1": 16})
    assert [widths.unique().tolist() for widths in answer.widths.values()] == [[4], [16]]
    assert answer.predicted == pytest.approx(float(sensitivity["layer0"][2].sum()))


@pytest.mark.parametrize("method", METHODS)
def test_a_budget_out_of_reach_says_what_can_be(method: Method) -> None:
    drawn = problem((64, 64), (64, 128))
    for budget, got, least, most in (
        (Budget.bits(3), "3 bits per channel", "4", "16"),
        (Budget.bytes(1.2), "1.2 of the bytes in bf16", "0.2917", "1.0208"),
    ):
        with pytest.raises(BudgetError) as caught:
            method(*drawn, budget)
        assert str(caught.value) == (
            f"the budget is {got}, expected {least}, the least that can be, to {most}, what 16 bits need; "
            "give --budget a number between them"
        )


@pytest.mark.parametrize("method", METHODS)
def test_the_least_and_the_most_that_are_named_are_accepted(method: Method) -> None:
    drawn = problem((64, 64), (64, 128))
    assert method(*drawn, Budget.bytes(0.2917)).bytes_over_bf16 == uniform(*drawn, 4).bytes_over_bf16
    assert (all_widths(method(*drawn, Budget.bits(16.0))) == 16).all()


def test_what_does_not_fit_is_refused() -> None:
    sensitivity, shapes = problem((4, 64))
    with pytest.raises(ValueError, match="a layer with a fixed width has no shape"):
        queue(sensitivity, shapes, Budget.bits(8.0), fixed={"layer9": 16})
    with pytest.raises(ValueError, match="layer0 is not finite"):
        queue({"layer0": sensitivity["layer0"] * torch.nan}, shapes, Budget.bits(8.0))


def test_the_precisions_of_the_widths_are_codes() -> None:
    widths = precisions(torch.tensor(WIDTHS))
    assert widths.tolist() == [[16, 8, 4, 0], [16, 4, 4, 0]]
    assert codes.quantize(torch.ones(4, 16), widths).out_features == 4
