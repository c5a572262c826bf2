"""The path from a recipe and a budget to codes: what every choice of a recipe changes, measured on its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from test_probe import buffer_of
from torch import Tensor

from vlaq_ros.calibrate import matching, pipeline
from vlaq_ros.calibrate.alignment import units
from vlaq_ros.calibrate.exact import exact
from vlaq_ros.calibrate.layout import Layout
from vlaq_ros.calibrate.matching import Clip
from vlaq_ros.calibrate.pipeline import Calibrated, Measured, calibrate, measure
from vlaq_ros.calibrate.probe import Probe, layers
from vlaq_ros.calibrate.recipes import RECIPES, Feedback, Recipe, Smoothing
from vlaq_ros.calibrate.steps import Steps
from vlaq_ros.calibrate.storage import WIDTHS, over_bf16
from vlaq_ros.errors import BudgetError
from vlaq_ros.policy.checkpoint import Checkpoint

AT_4, AT_8 = 0.9, 0.998  # budgets of the tiny network, whose rows are short, for uniform codes


def silent(_: str, __: int) -> Callable[[int], None]:
    """Report to nobody."""
    return lambda _: None


@pytest.fixture(scope="module")
def probe(tiny_checkpoint: Path) -> Probe:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    return Probe.open(checkpoint, buffer_of(checkpoint, 4))


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Steps:
    """What the tests of this file have in common: the same network and observations."""
    return Steps(tmp_path_factory.mktemp("steps"))


@pytest.fixture(scope="module")
def follow(probe: Probe, steps: Steps) -> Callable[[Recipe, float], Calibrated]:
    return partial(_follow, probe, steps)


def _follow(probe: Probe, steps: Steps, recipe: Recipe, budget: float) -> Calibrated:
    return calibrate(measure(probe, recipe, steps, silent), recipe, budget, silent)


Follow = Callable[[Recipe, float], Calibrated]


def scales(calibrated: Calibrated, layer: str) -> Tensor:
    """[P, O] in the order of the channels."""
    nested = calibrated.nested[layer]
    return nested.scale[:, nested.rows.argsort()]


def test_uniform_widths_are_the_widest_that_fit(follow: Follow) -> None:
    for budget, width in ((AT_4, 4), (AT_8, 8)):
        for finest in follow(RECIPES["rtn"], budget).allocation.widths.values():
            assert (finest == width).all()


def test_coarse_reads_4_bits_of_8_and_everything_else_as_it_is(follow: Follow) -> None:
    calibrated = follow(RECIPES["channelwise"], AT_4)
    seen = set()
    for name, finest in calibrated.allocation.widths.items():
        nested = calibrated.nested[name]
        coded = {bits for group in nested.groups for bits in [group.bits]}
        assert coded <= {(8, 4), (4, 4)}
        assert len(nested.half_rows) == (finest == 16).sum()
        assert sum(group.rows for group in nested.groups if group.bits == (8, 4)) == (finest == 8).sum()
        seen |= coded
    assert seen == {(8, 4), (4, 4)}


def test_feedback_brings_4_bits_nearer_to_full_precision(follow: Follow) -> None:
    nearest, feedback = follow(RECIPES["rtn"], AT_4), follow(RECIPES["gptq"], AT_4)
    assert all(torch.equal(nearest.nested[name].scale, feedback.nested[name].scale) for name in nearest.nested)
    assert feedback.nmse[1] < 0.6 * nearest.nmse[1]


def test_8_bits_are_nearer_than_4(follow: Follow) -> None:
    fine, coarse = follow(RECIPES["rtn"], AT_8).nmse
    assert 0 < fine < coarse / 10


@pytest.mark.parametrize("smoothing", [Smoothing.SMOOTHQUANT, Smoothing.AWQ])
def test_a_smoothed_network_acts_as_before_and_its_codes_are_others(
    follow: Follow, probe: Probe, steps: Steps, smoothing: Smoothing
) -> None:
    recipe = Recipe(smoothing=smoothing)
    measured = measure(probe, recipe, steps, silent)
    network, smoothed = measured.probe.network, calibrate(measured, recipe, AT_8, silent)
    assert probe.nmse(probe.actions(network)) < 1e-9
    assert smoothed.nmse[0] < 3 * follow(Recipe(), AT_8).nmse[0]
    plain = layers(probe.network)
    changed = [name for name, layer in layers(network).items() if not torch.equal(layer.weight, plain[name].weight)]
    assert changed
    assert smoothed.beside
    assert not smoothed.beside.keys() & {f"{name}.weight" for name in plain}


def test_guided_feedback_weighs_tokens_and_makes_other_codes(follow: Follow, probe: Probe, steps: Steps) -> None:
    weights = measure(probe, RECIPES["guided"], steps, silent).token_weights
    assert weights is not None
    assert weights.keys() == layers(probe.network).keys()
    plain, guided = follow(RECIPES["channelwise"], AT_4), follow(RECIPES["guided"], AT_4)
    assert all(torch.equal(plain.allocation.widths[name], guided.allocation.widths[name]) for name in weights)
    assert any(not torch.equal(plain.nested[name].hi, guided.nested[name].hi) for name in weights)
    assert (steps.directory / "guidance-none.safetensors").is_file()


def test_what_is_not_asked_for_is_not_there(probe: Probe, steps: Steps) -> None:
    measured = measure(probe, RECIPES["rtn"], steps, silent)
    assert measured == Measured(probe, {}, None, (), None)
    calibrated = calibrate(measured, RECIPES["rtn"], AT_4, silent)
    assert (calibrated.beside, calibrated.drifts, calibrated.matchings, calibrated.predicted) == ({}, (), (), None)
    assert list(calibrated.nested) == list(layers(probe.network))


def test_matching_multiplies_the_scales_and_nothing_else(follow: Follow, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALPHA", "BETA"):
        monkeypatch.setattr(matching, name, Clip(0.5, 2, 1, 1))  # no neutral band: the tiny network lies within it
    plain, matched = follow(Recipe(), AT_4), follow(Recipe(matching=True), AT_4)
    assert len(matched.matchings) == len(pipeline.NAMES)
    assert all((each.alpha != 1).all() and (each.beta != 1).all() for each in matched.matchings)
    for name in plain.nested:
        before, after = plain.nested[name], matched.nested[name]
        assert torch.equal(before.hi, after.hi)
        assert torch.equal(before.rows, after.rows)
        gain = scales(matched, name) / scales(plain, name)
        kind, layer = name.rsplit(".", 1)[-1], int(name.split(".")[2])
        for precision, each in enumerate(matched.matchings):
            if name.startswith("expert") and kind == "o":
                expected = each.beta[layer].float().expand_as(gain[precision])
            elif name.startswith("expert") and kind == "qkv":
                heads = each.alpha[layer].float()
                dim = len(gain[precision]) // (len(heads) + 2)  # one group of keys and values
                expected = torch.cat([heads.repeat_interleave(dim), torch.ones(2 * dim)])
            else:
                expected = torch.ones_like(gain[precision])
            torch.testing.assert_close(gain[precision], expected)
    for each in matched.matchings:
        assert each.after.residual < each.before.residual


def test_the_selective_layout_keeps_its_layers_in_16_bits(follow: Follow) -> None:
    for name, finest in follow(RECIPES["quantvla"], AT_4).allocation.widths.items():
        assert (finest == (16 if Layout.SELECTIVE.keeps(name) else 4)).all()


@pytest.mark.parametrize("name", ["qvla", "qvla-release"])
def test_a_budget_in_bits_is_the_most_that_keeps_the_bytes(follow: Follow, name: str) -> None:
    for budget in (AT_4, AT_8):
        assert budget - 0.02 < follow(RECIPES[name], budget).allocation.bytes_over_bf16 <= budget


@pytest.mark.parametrize("name", RECIPES)
def test_a_budget_that_a_recipe_cannot_reach_is_refused(follow: Follow, probe: Probe, name: str) -> None:
    shapes = {layer: linear.weight.shape for layer, linear in layers(probe.network).items()}
    kept = RECIPES[name].layout

    def share(width: int) -> float:
        return over_bf16(
            shapes,
            {layer: torch.full(shape[:1], 16 if kept.keeps(layer) else width) for layer, shape in shapes.items()},
        )

    with pytest.raises(BudgetError) as refusal:
        follow(RECIPES[name], 0.5)
    assert str(refusal.value) == str(BudgetError(0.5, "of the bytes in bf16", share(4), share(16)))


def test_the_refusal_in_words(follow: Follow) -> None:
    with pytest.raises(BudgetError) as refusal:
        follow(RECIPES["rtn"], 0.3)
    assert str(refusal.value) == (
        "the budget is 0.3 of the bytes in bf16, expected 0.554, the least that can be, to 1.0553, what 16 bits need; "
        "give --budget a number between them"
    )


def test_sensitivities_are_measured_once_for_all_budgets(
    probe: Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, jacobian = [], pipeline.jacobian

    def counted(*arguments: Probe, report: Callable[[int], None]) -> dict[str, Tensor]:
        calls.append(arguments)
        return jacobian(*arguments, report=report)

    monkeypatch.setattr(pipeline, "jacobian", counted)
    recipe = replace(RECIPES["channelwise"], feedback=Feedback.NONE)
    before, now = (measure(probe, recipe, Steps(tmp_path), silent) for _ in range(2))
    assert len(calls) == 1
    first, again = calibrate(before, recipe, AT_4, silent), calibrate(now, recipe, AT_4, silent)
    assert first.nmse == again.nmse
    assert before.sensitivity is not None
    assert now.sensitivity is not None
    for name, nested in first.nested.items():
        assert torch.equal(before.sensitivity[name], now.sensitivity[name])
        assert torch.equal(nested.hi, again.nested[name].hi)
        assert torch.equal(nested.scale, again.nested[name].scale)


def test_the_most_sensitive_channels_are_measured_and_the_others_estimated(probe: Probe, steps: Steps) -> None:
    """On a policy with fewer observations than may be used, on all of them."""
    estimated = pipeline.jacobian(probe, report=lambda _: None)
    found = measure(probe, RECIPES["channelwise"], steps, silent).sensitivity
    assert found is not None
    at_4 = WIDTHS.index(4)
    least = torch.cat([each[at_4] for each in estimated.values()]).topk(pipeline.REFINED).values[-1]
    refined = 0
    for name, each in estimated.items():
        top = each[at_4] >= least
        assert torch.equal(found[name][:, ~top], each[:, ~top])
        assert torch.equal(found[name][[0, 3]], each[[0, 3]])
        channels = top.nonzero().flatten().tolist()
        for bits in (8, 4) if channels else ():
            measured = exact(probe, name, channels, bits)  # again, and rounded otherwise: an error of 8 bits is small
            torch.testing.assert_close(found[name][WIDTHS.index(bits), top], measured, rtol=0.01, atol=0)
        refined += len(channels)
    assert refined == pipeline.REFINED


@pytest.mark.parametrize("observations", [33, 70])
def test_true_passes_take_observations_from_the_whole_buffer(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, observations: int
) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    probe = Probe.open(checkpoint, buffer_of(checkpoint, observations))
    passes: list[Sequence[int]] = []

    def estimate(probe: Probe, report: Callable[[int], None]) -> dict[str, Tensor]:
        return {name: torch.ones(len(WIDTHS), linear.out_features) for name, linear in layers(probe.network).items()}

    def refine(estimated: dict[str, Tensor], _: Probe, *, rows: Sequence[int], **__: object) -> dict[str, Tensor]:
        passes.append(rows)
        return estimated

    monkeypatch.setattr(pipeline, "jacobian", estimate)
    monkeypatch.setattr(pipeline, "refine", refine)
    measure(probe, RECIPES["channelwise"], Steps(tmp_path), silent)
    (rows,) = passes
    assert len(rows) <= 32
    assert rows[0] == 0
    assert observations - rows[-1] <= rows[1] - rows[0]


def test_the_prediction_is_the_error_of_the_weights_over_the_teachers_square(follow: Follow, probe: Probe) -> None:
    energy = float(probe.teacher.square().sum(dim=(1, 2)).mean())
    for name in ("channelwise", "qvla", "eaqvla"):
        calibrated = follow(RECIPES[name], AT_4)
        assert calibrated.predicted == pytest.approx(calibrated.allocation.predicted / energy, rel=1e-5)
    rounded = follow(replace(RECIPES["layerwise"], feedback=Feedback.NONE), AT_8)
    assert rounded.predicted is not None
    assert rounded.nmse[0] / 10 < rounded.predicted < rounded.nmse[0] * 10


def test_a_hessian_predicts_no_error_of_actions(follow: Follow) -> None:
    calibrated = follow(RECIPES["qvla-release"], AT_4)
    assert calibrated.allocation.predicted > 0
    assert calibrated.predicted is None


def test_widths_by_drift_come_with_the_drifts(follow: Follow, probe: Probe) -> None:
    calibrated = follow(RECIPES["eaqvla"], AT_4)
    assert [(drift.unit, drift.width) for drift in calibrated.drifts] == [
        (unit, width) for width in (8, 4) for unit in units(probe.network)
    ]


def test_a_smoothed_networks_sensitivities_are_not_the_plain_ones(probe: Probe, steps: Steps) -> None:
    smoothed = replace(RECIPES["layerwise"], smoothing=Smoothing.SMOOTHQUANT)
    own, plain = (measure(probe, recipe, steps, silent).sensitivity for recipe in (smoothed, RECIPES["layerwise"]))
    assert own is not None
    assert plain is not None
    assert any(not torch.equal(own[name], plain[name]) for name in plain)
    assert {"jacobian-none.safetensors", "jacobian-smoothquant.safetensors"} <= {
        file.name for file in steps.directory.iterdir()
    }
