"""Scales that move between modules: nothing changes at full precision, and 4 bits lose less."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_probe import buffer_of
from torch import Tensor

from vlaq_ros.calibrate.probe import Probe, layers, watching
from vlaq_ros.calibrate.smoothing import (
    Inputs,
    Smoothing,
    awq,
    beside_weights,
    fold,
    moved,
    norm_seams,
    observe,
    seams,
    smoothquant,
)
from vlaq_ros.calibrate.students import effective
from vlaq_ros.policy import pi0
from vlaq_ros.policy.checkpoint import Checkpoint
from vlaq_ros.quant.codes import quantize

TABLETOP = Path(__file__).parent.parent / "models" / "tabletop_pi0"  # two groups of keys; the tiny one has one


@pytest.fixture(scope="module", params=["tiny", "tabletop"])
def checkpoint(request: pytest.FixtureRequest, tiny_checkpoint: Path) -> Checkpoint:
    return Checkpoint.open(tiny_checkpoint if request.param == "tiny" else TABLETOP)


@pytest.fixture(scope="module")
def probe(checkpoint: Checkpoint) -> Probe:
    return Probe.open(checkpoint, buffer_of(checkpoint, 4))


@pytest.fixture(scope="module")
def random_smoothing(probe: Probe) -> Smoothing:
    """All seams at once, each channel by its own factor from 1/8 to 8."""
    generator = torch.Generator().manual_seed(0)
    chosen = []
    for seam in seams(probe.network, probe.config):
        channels = max(int(each.max()) for each in seam.takers.values()) + 1
        chosen.append((seam, 8 ** (2 * torch.rand(channels, generator=generator) - 1)))
    return moved(probe.network, chosen)


@pytest.fixture(scope="module")
def tiny_probe(tiny_checkpoint: Path) -> Probe:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    return Probe.open(checkpoint, buffer_of(checkpoint, 4))


@pytest.fixture(scope="module")
def tiny_inputs(tiny_probe: Probe) -> dict[str, Inputs]:
    return observe(tiny_probe, layers(tiny_probe.network), lambda _: None)


def four_bit_error(weight: Tensor, x: Tensor) -> float:
    exact = x @ weight.T
    return float((x @ effective(quantize(weight), 1).T - exact).norm() / exact.norm())


def test_every_quantized_linear_but_fc2_has_one_seam_before_it(probe: Probe) -> None:
    takers = [name for seam in seams(probe.network, probe.config) for name in seam.takers]
    assert sorted(takers) == sorted(name for name in layers(probe.network) if not name.endswith("fc2"))


def test_folded_scales_leave_the_actions_as_they_are(probe: Probe, random_smoothing: Smoothing) -> None:
    folded = fold(probe.network, random_smoothing)
    assert not any(
        torch.equal(linear.weight, layers(probe.network)[name].weight)
        for name, linear in layers(folded).items()
        if not name.endswith("fc2")
    )
    torch.testing.assert_close(probe.actions(folded), probe.teacher, rtol=0, atol=1e-5)


def test_every_seam_counts(probe: Probe, random_smoothing: Smoothing) -> None:
    halves = Smoothing(random_smoothing.scales, {}), Smoothing({}, random_smoothing.divisors)
    for half in halves:
        assert probe.nmse(probe.actions(fold(probe.network, half))) > 1e-3


def test_a_bundle_gets_what_lies_beside_the_codes_as_a_checkpoint_has_it(
    probe: Probe, checkpoint: Checkpoint, random_smoothing: Smoothing
) -> None:
    folded = fold(probe.network, random_smoothing)
    beside = beside_weights(folded, random_smoothing)
    weights = {f"{name}.weight": linear.weight for name, linear in layers(folded).items()}
    assert not beside.keys() & weights.keys()
    tensors = [(name, (weights | beside).get(name, tensor)) for name, tensor in checkpoint.parameters()]
    built = pi0.assemble(checkpoint.config, tensors, {}, torch.float32, torch.device("cpu"))
    torch.testing.assert_close(probe.actions(built), probe.teacher, rtol=0, atol=1e-5)


def test_inputs_are_those_of_all_calls(tiny_probe: Probe, tiny_inputs: dict[str, Inputs]) -> None:
    name = "expert.layers.0.down"
    calls: list[Tensor] = []
    with watching(tiny_probe.network, [name], lambda _, x, __: calls.append(x.flatten(0, -2))):
        tiny_probe.actions(tiny_probe.network)
    seen, inputs = torch.cat(calls), tiny_inputs[name]
    assert len(calls) == tiny_probe.steps * len(tiny_probe.batches)
    assert inputs.tokens == len(seen)
    torch.testing.assert_close(inputs.largest, seen.abs().amax(dim=0))
    torch.testing.assert_close(inputs.total / inputs.tokens, seen.abs().mean(dim=0))
    for call, kept in zip(calls, inputs.kept, strict=True):
        assert len(kept) <= 32
        assert (
            torch.cdist(kept, call, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1).max() == 0
        )  # the kept ones are among them


def test_smoothquant_gives_weights_and_activations_the_same_range(
    tiny_probe: Probe, tiny_inputs: dict[str, Inputs]
) -> None:
    folded = fold(tiny_probe.network, smoothquant(tiny_probe.network, tiny_inputs))
    names = [name for seam in norm_seams(tiny_probe.network) for name in seam.takers]
    inputs = observe(tiny_probe.of(folded), names, lambda _: None)
    for name in names:
        ratio = inputs[name].largest / layers(folded)[name].weight.abs().amax(dim=0)
        torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-3, atol=0)
    torch.testing.assert_close(tiny_probe.actions(folded), tiny_probe.teacher, rtol=0, atol=1e-5)


def test_awq_is_nowhere_worse_than_no_scale_and_leaves_the_actions_as_they_are(
    tiny_probe: Probe, tiny_inputs: dict[str, Inputs]
) -> None:
    plain, done = tiny_probe.network, []
    smoothing = awq(plain, tiny_probe.config, tiny_inputs, done.append)
    assert sum(done) == len(seams(plain, tiny_probe.config))
    torch.testing.assert_close(tiny_probe.actions(fold(plain, smoothing)), tiny_probe.teacher, rtol=0, atol=1e-5)
    totals = []
    for seam in seams(plain, tiny_probe.config):
        before = after = 0.0
        for name in seam.takers:
            weight, scale, x = layers(plain)[name].weight, smoothing.scales[name], torch.cat(tiny_inputs[name].kept)
            before += four_bit_error(weight, x) ** 2
            after += four_bit_error(weight * scale, x / scale) ** 2
        assert after <= 1.0001 * before
        totals.append((before, after))
    assert sum(after for _, after in totals) < 0.95 * sum(before for before, _ in totals)


@pytest.mark.parametrize("method", ["smoothquant", "awq"])
def test_smoothing_repairs_a_layer_with_outlier_channels(tiny_probe: Probe, method: str) -> None:
    """Two channels with activations 50 times larger, and weights 50 times smaller, that the 4 bits lose."""
    plain, name = tiny_probe.network, "expert.layers.0.gate_up"
    (seam,) = (seam for seam in norm_seams(plain) if name in seam.takers)
    scale = torch.ones(layers(plain)[name].in_features)
    scale[[3, 20]] = 1 / 50
    hard = tiny_probe.of(fold(plain, moved(plain, [(seam, scale)])))
    inputs = observe(hard, layers(plain), lambda _: None)
    smoothing = (
        smoothquant(hard.network, inputs)
        if method == "smoothquant"
        else awq(hard.network, hard.config, inputs, lambda _: None)
    )
    easy = hard.of(fold(hard.network, smoothing))
    x_easy = torch.cat(observe(easy, [name], lambda _: None)[name].kept)
    before = four_bit_error(layers(hard.network)[name].weight, torch.cat(inputs[name].kept))
    assert four_bit_error(layers(easy.network)[name].weight, x_easy) < before / 3


def test_a_channel_that_is_never_active_gets_a_finite_scale(tiny_probe: Probe, tiny_inputs: dict[str, Inputs]) -> None:
    dead = {}
    for name, inputs in tiny_inputs.items():
        largest, total = inputs.largest.clone(), inputs.total.clone()
        largest[0] = total[0] = 0
        dead[name] = Inputs(largest, total, inputs.tokens, inputs.kept)
    network = tiny_probe.network
    for smoothing in (smoothquant(network, dead), awq(network, tiny_probe.config, dead, lambda _: None)):
        for scale in smoothing.scales.values():
            assert scale.isfinite().all()
            assert scale.max() / scale.min() < 1.01e4
