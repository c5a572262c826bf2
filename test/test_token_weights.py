"""How much tokens matter: against the Jacobian itself, and in the moments that they weigh."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_probe import buffer_of
from torch import Tensor

from vlaq_ros.calibrate import probe as probe_module
from vlaq_ros.calibrate.guidance import token_weights
from vlaq_ros.calibrate.moments import moments
from vlaq_ros.calibrate.probe import Probe, layers, watching
from vlaq_ros.calibrate.sensitivity import recorded
from vlaq_ros.policy.checkpoint import Checkpoint
from vlaq_ros.quant.hadamard import block_size, rotate

NAMES = ("vision.layers.1.fc2", "language.layers.0.o", "expert.layers.0.gate_up")


@pytest.fixture(scope="module")
def probe(tiny_checkpoint: Path) -> Probe:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe_module, "_BYTES", 1)  # so that there are two batches
        return Probe.open(checkpoint, buffer_of(checkpoint, 2))


@pytest.fixture(scope="module")
def weights(probe: Probe) -> dict[str, Tensor]:
    return token_weights(probe, probes=400, report=lambda _: None)


def test_a_weight_is_the_norm_of_the_jacobian(probe: Probe, weights: dict[str, Tensor]) -> None:
    """The squared norm, entry by entry of the actions, is what the probes estimate."""
    exact: dict[str, list[Tensor]] = {name: [] for name in NAMES}
    for batch in probe.batches:
        actions, _, outputs = recorded(probe, batch)
        calls = [call for name in NAMES for call in outputs[name]]
        squares = [torch.zeros(call.shape[:-1]) for call in calls]
        for entry in actions.flatten(1).T:  # observations do not reach each other's actions
            gradients = torch.autograd.grad(entry.sum(), calls, retain_graph=True)
            squares = [total + each.square().sum(dim=-1) for total, each in zip(squares, gradients, strict=True)]
        for name in NAMES:
            for _ in outputs[name]:
                exact[name].append(squares.pop(0).flatten().sqrt())
    for name in NAMES:
        expected = torch.cat(exact[name])
        assert weights[name].shape == expected.shape
        shown = expected > 0.1 * expected.max()
        torch.testing.assert_close(weights[name][shown], expected[shown], rtol=0.3, atol=0)


def test_every_token_has_one_in_the_order_of_the_moments(probe: Probe, weights: dict[str, Tensor]) -> None:
    calls: dict[str, list[Tensor]] = {name: [] for name in NAMES}
    with watching(probe.network, NAMES, lambda name, x, _: calls[name].append(x.flatten(0, -2).double())):
        probe.actions(probe.network)
    assert weights.keys() == layers(probe.network).keys()
    for name, moment in moments(probe, NAMES, lambda _: None, weights):
        x, w = torch.cat(calls[name]), weights[name].double()
        assert len(x) == len(w)
        turned = rotate(x, block_size(x.shape[1]))
        torch.testing.assert_close(moment, (turned * w[:, None]).T @ turned / w.sum(), rtol=1e-4, atol=1e-5)


def test_progress_counts_observations(probe: Probe) -> None:
    done: list[int] = []
    token_weights(probe, probes=1, report=done.append)
    assert sum(done) == 2
