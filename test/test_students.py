"""Quantized networks for calibration: the robot's kernels, and an emulation that agrees with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_probe import buffer_of

from vlaq_ros.calibrate.probe import Probe, layers
from vlaq_ros.calibrate.students import EmulatedLinear, effective, quantized, rounded, student
from vlaq_ros.policy.checkpoint import Checkpoint
from vlaq_ros.quant.codes import decode, quantize
from vlaq_ros.quant.hadamard import rotate


@pytest.fixture(scope="module")
def probe(tiny_checkpoint: Path) -> Probe:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    return Probe.open(checkpoint, buffer_of(checkpoint, 4))


@pytest.mark.parametrize("features", [48, 128, 20])
def test_effective_weights_do_what_rotated_ones_do(features: int) -> None:
    random = torch.Generator().manual_seed(0)
    weight, x = torch.randn(24, features, generator=random), torch.randn(5, features, generator=random)
    nested = quantize(weight)
    for precision in (0, 1):
        expected = rotate(x, nested.block) @ decode(nested, precision).T
        torch.testing.assert_close(x @ effective(nested, precision).T, expected, rtol=1e-5, atol=1e-5)


def test_a_student_shares_what_is_not_replaced(probe: Probe) -> None:
    name = "expert.layers.0.o"
    linear = layers(probe.network)[name]
    changed = student(probe.network, {name: EmulatedLinear(2 * linear.weight, linear.bias, 16)})
    assert probe.network.get_submodule(name) is linear
    assert probe.nmse(probe.actions(changed)) > 0
    ours, theirs = dict(probe.network.named_parameters()), dict(changed.named_parameters())
    assert {key for key in ours if key not in theirs} == {f"{name}.weight"}
    assert all(theirs[key] is value for key, value in ours.items() if key in theirs)


def test_emulated_layers_without_rounding_are_the_network(probe: Probe) -> None:
    whole = {name: EmulatedLinear(linear.weight, linear.bias, 16) for name, linear in layers(probe.network).items()}
    assert probe.nmse(probe.actions(student(probe.network, whole))) < 1e-9


def test_the_emulation_agrees_with_the_kernels(probe: Probe) -> None:
    nested = {name: quantize(linear.weight) for name, linear in layers(probe.network).items()}
    for precision in (0, 1):
        real = probe.actions(quantized(probe.network, nested, precision, 8))
        emulated = {
            name: EmulatedLinear(effective(weight, precision), layers(probe.network)[name].bias, 8)
            for name, weight in nested.items()
        }
        acted = probe.actions(student(probe.network, emulated))
        difference = (acted - real).square().sum() / probe.teacher.square().sum()
        assert float(difference) < 0.1 * probe.nmse(real)  # roundings that fall to the other side


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_rounding_takes_as_many_values_as_its_bits_allow(bits: int) -> None:
    weight = torch.randn(6, 256, generator=torch.Generator().manual_seed(bits))
    turned = rotate(rounded(weight, bits), 64)
    for row in turned:
        assert len(torch.unique((row / row.abs().max() * 1e4).round())) <= 2**bits


def test_fewer_bits_are_a_larger_error() -> None:
    weight = torch.randn(6, 256, generator=torch.Generator().manual_seed(1))
    errors = [float((rounded(weight, bits) - weight).square().mean()) for bits in (2, 3, 4, 8)]
    assert errors == sorted(errors, reverse=True)
    assert 0.10 < errors[0] < 0.14  # the least of a uniform 4-level quantizer of a normal variable: 0.1188 (Max, 1960)


def test_fewer_activation_bits_are_a_larger_error(probe: Probe) -> None:
    errors = []
    for bits in (2, 3, 4, 8, 16):
        whole = {n: EmulatedLinear(linear.weight, linear.bias, bits) for n, linear in layers(probe.network).items()}
        errors.append(probe.nmse(probe.actions(student(probe.network, whole))))
    assert errors == sorted(errors, reverse=True)
