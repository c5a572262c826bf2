"""Second moments of rotated inputs: against their definition, however many passes they take."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_probe import buffer_of
from torch import Tensor

from vlaq_ros.calibrate import moments as module
from vlaq_ros.calibrate.moments import moments
from vlaq_ros.calibrate.probe import Probe, layers, watching
from vlaq_ros.calibrate.students import effective
from vlaq_ros.policy.checkpoint import Checkpoint
from vlaq_ros.quant.codes import quantize
from vlaq_ros.quant.hadamard import rotate
from vlaq_ros.quant.rounding import feedback

NAMES = ("vision.layers.1.fc2", "language.layers.1.kv", "expert.layers.0.gate_up")  # in the order of a forward pass


@pytest.fixture(scope="module")
def probe(tiny_checkpoint: Path) -> Probe:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    return Probe.open(checkpoint, buffer_of(checkpoint, 4))


@pytest.fixture(scope="module")
def inputs(probe: Probe) -> dict[str, Tensor]:
    """All tokens of all calls: [n, K]."""
    calls: dict[str, list[Tensor]] = {name: [] for name in NAMES}
    with watching(probe.network, NAMES, lambda name, x, _: calls[name].append(x.flatten(0, -2).double())):
        probe.actions(probe.network)
    return {name: torch.cat(parts) for name, parts in calls.items()}


@pytest.mark.parametrize(("bytes_", "passes"), [(1, 3), (8 * (64**2 + 32**2), 2), (1 << 30, 1)])
def test_moments_are_those_of_rotated_inputs_in_any_number_of_passes(
    probe: Probe, inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, bytes_: int, passes: int
) -> None:
    monkeypatch.setattr(module, "_BYTES", bytes_)
    ran, actions = [], probe.actions
    monkeypatch.setattr(probe, "actions", lambda network: ran.append(network) or actions(network))
    done: list[int] = []
    measured = dict(moments(probe, NAMES, done.append))
    assert list(measured) == list(NAMES)
    assert len(ran) == passes
    assert done == [1, 1, 1]
    for name, x in inputs.items():
        turned = rotate(x, quantize(torch.ones(1, x.shape[1])).block)
        torch.testing.assert_close(measured[name], turned.T @ turned / len(x), rtol=1e-5, atol=1e-5)


def test_codes_that_make_up_for_each_other_err_less_on_these_inputs_in_4_bits(
    probe: Probe, inputs: dict[str, Tensor]
) -> None:
    for name, moment in moments(probe, NAMES, lambda _: None):
        weight = layers(probe.network)[name].weight
        errors = [
            (inputs[name] @ (effective(quantize(weight, rounding=rounding), 1) - weight).double().T).norm()
            for rounding in (feedback(moment), None)
        ]
        assert errors[0] < 0.9 * errors[1]
