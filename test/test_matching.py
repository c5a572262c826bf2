"""Attention temperatures and output energies: measured, bounded, and folded into scales."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_probe import buffer_of
from torch import Tensor, nn

from vlaq_ros.calibrate.matching import ALPHA, BETA, Clip, Gaps, fold, gains, gaps, match, measure, spreads
from vlaq_ros.calibrate.probe import Probe, layers
from vlaq_ros.calibrate.students import effective, quantized, rounded, student
from vlaq_ros.policy.checkpoint import Checkpoint
from vlaq_ros.policy.pi0 import PI0Network
from vlaq_ros.quant.codes import NestedWeight, quantize

HEADS, LAYERS, SIZE = 2, 2, 16  # of the expert of the tiny checkpoint, which has one group of keys
LAST = f"expert.layers.{LAYERS - 1}"


@pytest.fixture(scope="module")
def probe(tiny_checkpoint: Path) -> Probe:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    return Probe.open(checkpoint, buffer_of(checkpoint, 4))


@pytest.fixture
def one_step(tiny_checkpoint: Path) -> Probe:
    """With a single step, what the last layer does reaches no input of it."""
    checkpoint = Checkpoint.open(tiny_checkpoint)
    once = replace(checkpoint, spec=replace(checkpoint.spec, denoising_steps=1))
    return Probe.open(once, buffer_of(once, 4))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def linear(weight: Tensor) -> nn.Linear:
    made = nn.Linear(*reversed(weight.shape), bias=False, device="meta")
    made.weight = nn.Parameter(weight, requires_grad=False)
    return made


def with_gains(network: PI0Network, factors: Mapping[str, Tensor]) -> PI0Network:
    """Multiply output channels of some linears without biases."""
    linears = layers(network)
    return student(network, {name: linear(linears[name].weight * gain[:, None]) for name, gain in factors.items()})


def nested(network: PI0Network) -> dict[str, NestedWeight]:
    """The codes of the expert's attention."""
    return {
        name: quantize(linear.weight)
        for name, linear in layers(network).items()
        if name.startswith("expert") and name.endswith(("qkv", "o"))
    }


@contextmanager
def balanced(network: PI0Network, beta: Tensor) -> Iterator[None]:
    """Multiply what the expert's attention adds, explicitly."""

    def times(factor: Tensor, _: nn.Module, __: object, output: Tensor) -> Tensor:
        return output * factor

    hooks = [
        network.get_submodule(f"expert.layers.{layer}.o").register_forward_hook(partial(times, factor))
        for layer, factor in enumerate(beta.float())
    ]
    yield
    for hook in hooks:
        hook.remove()


def corrected_explicitly(probe: Probe, network: PI0Network, alpha: Tensor, beta: Tensor) -> Tensor:
    """Actions of a network whose logits and attention outputs are multiplied where they occur."""

    def multiply(tower: str, layer: int, query: Tensor, keys: Tensor, mask: Tensor | None) -> None:
        if tower == "expert":
            query *= alpha[layer].float()[:, None]

    with balanced(network, beta):
        return probe.actions(network, look=multiply)


def test_spreads_are_standard_deviations_over_the_pairs_that_are_seen() -> None:
    query, keys = random(3, 5, 4, 8), random(3, 2, 7, 8, seed=1)
    mask = torch.rand(5, 7, generator=torch.Generator().manual_seed(2)) < 0.6
    for seen in (mask, None):
        found = spreads(query, keys, seen)
        for b in range(3):
            for head in range(4):
                logits = [
                    float(query[b, i, head] @ keys[b, head // 2, j]) / math.sqrt(8)
                    for i in range(5)
                    for j in range(7)
                    if seen is None or seen[i, j]
                ]
                mean = sum(logits) / len(logits)
                variance = sum((logit - mean) ** 2 for logit in logits) / len(logits)
                assert float(found[b, head]) == pytest.approx(math.sqrt(variance), rel=1e-5)


def test_what_is_masked_does_not_count() -> None:
    query, keys = random(1, 4, 2, 8), random(1, 1, 6, 8, seed=1)
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[:, 5] = False
    before = spreads(query, keys, mask)
    keys[:, :, 5] = 1e6
    assert torch.equal(spreads(query, keys, mask), before)
    assert float(spreads(query, keys, None).min()) > 1e3


@given(st.sampled_from([ALPHA, BETA]), st.lists(st.floats(1e-3, 1e3), min_size=1))
def test_factors_are_bounded_neutral_or_themselves(clip: Clip, factors: list[float]) -> None:
    applied = clip(torch.tensor(factors, dtype=torch.float64))
    for factor, result in zip(factors, applied.tolist(), strict=True):
        if clip.neutral_low < factor < clip.neutral_high:
            assert result == 1
        else:
            assert result == min(max(factor, clip.low), clip.high)
    assert clip.clamped(applied) == sum(factor <= clip.low or factor >= clip.high for factor in factors)


def test_the_bounds_are_those_of_the_released_code() -> None:
    factors = torch.tensor([0.5, 0.71, 0.979, 0.981, 1.019, 1.021, 1.39, 3], dtype=torch.float64)
    assert ALPHA(factors).tolist() == [0.7, 0.71, 0.979, 1, 1, 1.021, 1.39, 1.4]
    logs = torch.tensor([-1, -0.29, -0.031, -0.029, 0.029, 0.031, 0.29, 1], dtype=torch.float64)
    expected = torch.tensor([-0.3, -0.29, -0.031, 0, 0, 0.031, 0.29, 0.3], dtype=torch.float64)
    torch.testing.assert_close(BETA(logs.exp()).log(), expected, rtol=0, atol=1e-12)


def test_a_network_matches_itself(probe: Probe) -> None:
    teacher = measure(probe, probe.network)
    found = match(probe, teacher, lambda _: probe.network)
    assert found.before == found.after == Gaps(0, 0)
    assert found.neutral == (LAYERS * HEADS, LAYERS)
    assert found.clamped == (0, 0)
    assert teacher.spread.shape == (LAYERS, HEADS)
    assert float(teacher.spread.min()) > 0 < float(teacher.energy.min())


def test_teacher_and_student_meet_the_noise_of_the_buffer(probe: Probe, tiny_checkpoint: Path) -> None:
    other = Probe.open(Checkpoint.open(tiny_checkpoint), replace(probe.buffer, noise=-probe.buffer.noise))
    teacher = measure(probe, probe.network)
    assert gaps(teacher, measure(probe, other.network)) == Gaps(0, 0)
    assert gaps(teacher, measure(other, other.network)).logit > 1e-4


def test_means_are_over_observations_and_steps(probe: Probe, tiny_checkpoint: Path) -> None:
    """Batches of one give what a batch of four gives."""
    checkpoint, buffer = Checkpoint.open(tiny_checkpoint), probe.buffer
    whole = measure(probe, probe.network)
    ones = [
        replace(buffer, observations=(seen,), noise=noise[None], phases=("",))
        for seen, noise in zip(buffer.observations, buffer.noise, strict=True)
    ]
    alone = [measure(Probe.open(checkpoint, one), probe.network) for one in ones]
    torch.testing.assert_close(torch.stack([each.spread for each in alone]).mean(0), whole.spread, rtol=1e-5, atol=0)
    torch.testing.assert_close(torch.stack([each.energy for each in alone]).mean(0), whole.energy, rtol=1e-5, atol=0)


def test_known_factors_are_undone(one_step: Probe) -> None:
    """The last layer of a student with queries and outputs of known strength gets exactly these back."""
    probe, teacher = one_step, measure(one_step, one_step.network)
    alpha, beta = torch.ones(LAYERS, HEADS), torch.ones(LAYERS)
    alpha[-1], beta[-1] = torch.tensor([1.25, 0.8]), 1.2
    harm = gains(1 / alpha, 1 / beta, probe.config)

    def weakened(factors: Mapping[str, Tensor]) -> PI0Network:
        return with_gains(probe.network, {name: harm[name] * factors.get(name, 1) for name in harm})

    found = match(probe, teacher, weakened)
    torch.testing.assert_close(found.alpha, alpha.double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(found.beta, beta.double(), rtol=1e-5, atol=0)
    assert found.neutral == (HEADS, LAYERS - 1)
    assert found.before.logit == pytest.approx((math.log(1.25) - math.log(0.8)) / (LAYERS * HEADS), rel=1e-4)
    assert found.after.logit < 1e-5 > found.after.residual
    restored = probe.actions(weakened(gains(found.alpha, found.beta, probe.config)))
    assert probe.nmse(restored) < 1e-9 < probe.nmse(probe.actions(weakened({})))
    untempered = measure(probe, weakened({}))  # the released code takes beta from this
    assert float(teacher.energy[-1] / untempered.energy[-1]) != pytest.approx(1.2, rel=1e-4)


def test_bounds_stop_large_factors(one_step: Probe) -> None:
    teacher = measure(one_step, one_step.network)
    alpha, beta = torch.ones(LAYERS, HEADS), torch.ones(LAYERS)
    alpha[-1, 0], beta[-1] = 3, 3
    harm = gains(1 / alpha, 1 / beta, one_step.config)
    found = match(
        one_step, teacher, lambda factors: with_gains(one_step.network, {n: harm[n] * factors.get(n, 1) for n in harm})
    )
    assert found.clamped == (1, 1)
    assert (float(found.alpha[-1, 0]), float(found.beta[-1])) == (1.4, math.exp(0.3))
    assert 0 < found.after.logit < found.before.logit
    assert 0 < found.after.residual < found.before.residual


def test_a_pruned_head_has_nothing_to_match(one_step: Probe) -> None:
    factors = gains(torch.ones(LAYERS, HEADS), torch.ones(LAYERS), one_step.config)
    factors[f"{LAST}.qkv"][:SIZE] = 0
    pruned = with_gains(one_step.network, factors)
    same = match(one_step, measure(one_step, pruned), lambda _: pruned)
    assert same.after == Gaps(0, 0)
    against_teacher = match(one_step, measure(one_step, one_step.network), lambda _: pruned)
    assert math.isfinite(against_teacher.after.logit)
    assert float(against_teacher.alpha[-1, 0]) == 1.4


def test_matching_narrows_the_gaps_of_a_coarse_student(probe: Probe) -> None:
    """At 2 bits, emulated: the corrections of one layer reach the next, so gaps shrink and do not vanish."""
    coarse = student(
        probe.network,
        {
            name: linear(rounded(module.weight, 2))
            for name, module in layers(probe.network).items()
            if name.startswith("expert")
        },
    )
    found = match(probe, measure(probe, probe.network), partial(with_gains, coarse))
    assert found.after.logit < 0.7 * found.before.logit
    assert found.after.residual < 0.7 * found.before.residual


def test_folded_is_explicit(probe: Probe) -> None:
    alpha, beta = 1 + 0.3 * random(LAYERS, HEADS).tanh(), 1 + 0.3 * random(LAYERS, seed=1).tanh()
    explicit = corrected_explicitly(probe, probe.network, alpha, beta)
    folded = probe.actions(with_gains(probe.network, gains(alpha, beta, probe.config)))
    torch.testing.assert_close(folded, explicit, rtol=0, atol=2e-5)
    assert probe.nmse(explicit) > 1e-4


def test_folded_in_scales_is_explicit_on_the_kernels_in_every_precision(probe: Probe) -> None:
    codes = nested(probe.network)
    alphas = 1 + 0.3 * random(2, LAYERS, HEADS).tanh()
    betas = 1 + 0.3 * random(2, LAYERS, seed=1).tanh()
    factors = [gains(alpha, beta, probe.config) for alpha, beta in zip(alphas, betas, strict=True)]
    folded = {name: fold(code, torch.stack([each[name] for each in factors])) for name, code in codes.items()}
    for precision in (0, 1):
        kernels = quantized(probe.network, codes, precision, 8)
        explicit = corrected_explicitly(probe, kernels, alphas[precision], betas[precision])
        found = probe.actions(quantized(probe.network, folded, precision, 8))
        apart = (found - explicit).square().sum() / explicit.square().sum()
        plain = (probe.actions(kernels) - explicit).square().sum() / explicit.square().sum()
        assert float(apart) < 1e-3 * float(plain)
    for name, code in codes.items():
        assert folded[name].hi is code.hi  # no weight is stored twice
        assert folded[name].lo is code.lo


def test_channels_of_16_bits_take_only_what_all_precisions_share() -> None:
    weight = random(6, 32)
    widths = torch.tensor([[16, 16, 8, 8, 4, 0], [16, 16, 8, 4, 4, 0]])
    code = quantize(weight, widths)
    factors = torch.tensor([[1.25, 0.75, 1.3, 1.1, 0.9, 2], [1.25, 0.8, 1.2, 0.7, 0.9, 2]])
    folded = fold(code, factors)
    applied = factors.clone()
    applied[:, 1] = 1
    for precision in (0, 1):
        expected = effective(code, precision) * applied[precision, :, None]
        torch.testing.assert_close(effective(folded, precision), expected, rtol=2e-3, atol=1e-6)
    assert folded.half.dtype == code.half.dtype
    assert torch.equal(folded.half[1], code.half[1])
