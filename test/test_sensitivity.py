"""Sensitivities of the actions: closed forms on a linear network, and true passes on real ones."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from test_probe import buffer_of
from torch import Tensor, nn

from vlaq_ros.calibrate import exact as exact_module
from vlaq_ros.calibrate.buffer import Buffer
from vlaq_ros.calibrate.correlation import rank_correlation
from vlaq_ros.calibrate.exact import cumulative, deviations, exact, spread
from vlaq_ros.calibrate.hessian import hessian
from vlaq_ros.calibrate.noise import noise
from vlaq_ros.calibrate.probe import Probe, layers
from vlaq_ros.calibrate.sensitivity import jacobian, refine
from vlaq_ros.calibrate.storage import WIDTHS
from vlaq_ros.calibrate.students import effective
from vlaq_ros.datatypes import Observation
from vlaq_ros.policy.checkpoint import Checkpoint
from vlaq_ros.quant.codes import quantize
from vlaq_ros.sim.robot import SimRobot

FIRST, SECOND = "language.layers.0.o", "expert.layers.0.o"
TABLETOP = Path(__file__).parents[1] / "models" / "tabletop_pi0"
TOKENS, STEPS, COLUMNS = 5, 3, 2


def silent(_: int) -> None:
    """Watch no progress."""


class LinearNetwork(nn.Module):
    """Actions are W2 W1 of the sum of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        for tower, sizes in (("language", (24, 16)), ("expert", (16, STEPS * COLUMNS))):
            part = nn.Module()
            part.layers = nn.ModuleList([nn.ModuleDict({"o": nn.Linear(*sizes, bias=False)})])
            self.add_module(tower, part)
        self.requires_grad_(False)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.get_submodule(FIRST)(tokens).sum(dim=1)
        return self.get_submodule(SECOND)(hidden).unflatten(-1, (STEPS, COLUMNS))


@dataclass
class Rows:
    rows: tuple[int, ...]


class LinearProbe:
    """`Probe` of that network on 6 observations."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = LinearNetwork()
        self.tokens = torch.randn(6, TOKENS, 24) + 0.5
        self.batches = [Rows((0, 1, 2, 3)), Rows((4, 5))]
        self.teacher = self.actions(self.network)

    def actions(self, network: LinearNetwork, rows: Sequence[int] | None = None) -> Tensor:
        return network(self.tokens if rows is None else self.tokens[list(rows)])

    def differentiable(self, network: LinearNetwork, batch: Rows) -> Tensor:
        return self.actions(network, batch.rows)

    def sensitivity(self) -> dict[str, Tensor]:
        """In closed form: a row's error, times what comes in, times the norm of the way out."""
        first, second = (linear.weight.double() for linear in layers(self.network).values())
        seen = self.tokens.double().sum(dim=1)
        errors = [noise(linear.weight).double() for linear in layers(self.network).values()]
        return {
            FIRST: (errors[0] @ seen.T).square().mean(dim=-1) * second.square().sum(dim=0),
            SECOND: (errors[1] @ (seen @ first.T).T).square().mean(dim=-1),
        }


@pytest.fixture(scope="module")
def linear() -> LinearProbe:
    return LinearProbe()


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Path) -> Probe:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    return Probe.open(checkpoint, buffer_of(checkpoint, 2))


def test_the_jacobian_converges_to_the_closed_form_of_a_linear_network(linear: LinearProbe) -> None:
    done: list[int] = []
    found = jacobian(linear, probes=500, report=done.append)
    assert done == [4, 2]
    for name, expected in linear.sensitivity().items():
        torch.testing.assert_close(found[name], expected, rtol=0.12, atol=0)  # sqrt(2 / 500 / 6) is 0.026
        assert not found[name][0].any()  # 16 bits


def test_true_passes_give_the_closed_form_of_a_linear_network(linear: LinearProbe) -> None:
    for name, expected in linear.sensitivity().items():
        channels = range(expected.shape[1])
        for index, bits in enumerate(WIDTHS):
            found = exact(linear, name, channels, bits)
            torch.testing.assert_close(found, expected[index], rtol=1e-2 if bits < 8 else 0.1, atol=1e-9)


def test_the_jacobian_is_that_of_autograd_for_every_tower(tiny: Probe) -> None:
    """Against dense Jacobians with respect to the weights themselves, met by the same random directions."""
    names, probes = ("vision.layers.0.fc1", "language.layers.1.kv", "expert.layers.0.qkv", "expert.layers.1.down"), 3
    found = jacobian(tiny, probes=probes, seed=7, report=silent)
    generator = torch.Generator().manual_seed(7)
    expected = {name: torch.zeros_like(found[name]) for name in names}
    network = copy.deepcopy(tiny.network)
    weights = [layers(network)[name].weight.requires_grad_() for name in names]
    for batch in tiny.batches:
        actions = tiny.differentiable(network, batch)
        for _ in range(probes):
            v = torch.randn(actions.shape, generator=generator)
            for one in (actions * v).sum(dim=(1, 2)):
                for name, gradient in zip(names, torch.autograd.grad(one, weights, retain_graph=True), strict=True):
                    expected[name] += (noise(layers(network)[name].weight) * gradient).sum(dim=-1).double().square()
    for name in names:
        torch.testing.assert_close(found[name], expected[name] / (probes * 2), rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("name", ["vision.layers.1.out", "language.layers.0.gate_up", "expert.layers.1.qkv"])
@pytest.mark.parametrize("bits", [8, 4, 0])
def test_a_true_pass_is_one_with_that_row_alone_rounded(tiny: Probe, name: str, bits: int) -> None:
    before = {key: value.clone() for key, value in tiny.network.state_dict().items()}
    channels, found = (3, 30), deviations(tiny, name, (3, 30), bits)
    for channel, off in zip(channels, found, strict=True):
        network = copy.deepcopy(tiny.network)
        weight = layers(network)[name].weight
        widths = torch.full((2, len(weight)), bits)
        weight.data[channel] = effective(quantize(weight, widths), 0)[channel]
        change = (tiny.actions(network) - tiny.teacher).double()
        torch.testing.assert_close(off, change.square().sum(dim=-1).sqrt(), rtol=1e-3, atol=1e-6)
    assert found.any()
    torch.testing.assert_close(tiny.network.state_dict(), before, rtol=0, atol=0)
    squared = found.square().sum(dim=(1, 2)) / 2
    torch.testing.assert_close(exact(tiny, name, channels, bits), squared, rtol=1e-12, atol=0)
    torch.testing.assert_close(deviations(tiny, name, channels, bits, rows=[1]), found[:, 1:], rtol=1e-3, atol=1e-6)


def test_only_the_most_sensitive_channels_are_refined(linear: LinearProbe) -> None:
    proxy = {name: each * (1 + index) for index, (name, each) in enumerate(linear.sensitivity().items())}
    done: list[int] = []
    refined = refine(proxy, linear, channels=4, report=done.append)
    assert sum(done) == 8
    ranked = sorted(((float(each[2, c]), name, c) for name, each in proxy.items() for c in range(each.shape[1])))[::-1]
    for place, (_, name, channel) in enumerate(ranked):
        expected = proxy[name][:, channel].clone()
        if place < 4:
            expected[1:3] = torch.cat([exact(linear, name, [channel], bits) for bits in (8, 4)])
            assert not torch.equal(expected, proxy[name][:, channel])
        assert torch.equal(refined[name][:, channel], expected)


def test_channels_are_refined_on_the_observations_that_are_named(linear: LinearProbe) -> None:
    proxy = {name: torch.ones_like(each) for name, each in linear.sensitivity().items()}
    refined = refine(proxy, linear, channels=sum(each.shape[1] for each in proxy.values()), rows=[1, 5], report=silent)
    for name, each in refined.items():
        for bits in (8, 4):
            expected = exact(linear, name, range(each.shape[1]), bits, rows=[1, 5])
            assert torch.equal(each[WIDTHS.index(bits)], expected)
            assert not torch.equal(expected, exact(linear, name, range(each.shape[1]), bits))
        assert (each[[0, 3]] == 1).all()


def test_the_hessian_is_that_of_the_published_code(linear: LinearProbe) -> None:
    done: list[int] = []
    found = hessian(linear, done.append)
    assert done == [1, 1]
    first, _ = layers(linear.network).values()
    inputs = {FIRST: linear.tokens.flatten(0, 1), SECOND: first(linear.tokens).sum(dim=1)}
    for name, module in layers(linear.network).items():
        x = inputs[name].double()
        H = 2 * x.T @ x / len(x)
        H += 0.01 * H.diagonal().mean() * torch.eye(len(H))
        d = torch.linalg.cholesky(torch.linalg.inv(H)).diagonal()  # of the upper factor: the lower one's transpose
        for index, bits in enumerate(WIDTHS):
            rounded = torch.zeros_like(module.weight)
            if bits:
                rounded = effective(quantize(module.weight, torch.full((2, len(module.weight)), bits)), 0)
            expected = ((module.weight - rounded).double() / d).square().sum(dim=1)
            torch.testing.assert_close(found[name][index], expected * (bits < 16), rtol=1e-4, atol=1e-12)


def test_cumulative_error_adds_up_over_time_and_averages_over_trajectories() -> None:
    off = torch.tensor([[[1.0, 2.0, 3.0], [0.0, 0.0, 4.0]]])  # one channel, two trajectories of three steps
    assert cumulative(off).tolist() == [5.0]


def test_on_the_shipped_policy_the_jacobian_ranks_channels_as_true_passes_do() -> None:
    checkpoint = Checkpoint.open(TABLETOP)
    probe = Probe.open(checkpoint, _simulated(checkpoint, 3))
    proxy = jacobian(probe, report=silent)
    random = np.random.default_rng(0)
    names = random.choice(list(proxy), 24, replace=False)
    pairs = []
    for name in names:
        channel = int(random.integers(proxy[name].shape[1]))
        pairs.append((float(proxy[name][WIDTHS.index(4), channel]), float(exact(probe, name, [channel], 4)[0])))
    found = rank_correlation(*zip(*pairs, strict=True))
    assert found.spearman > 0.85
    ratio = np.median([guessed / true for guessed, true in pairs])
    assert 0.5 < ratio < 2  # of the same unit: neither's scale is free


def _simulated(checkpoint: Checkpoint, count: int) -> Buffer:
    robot, spec, observations = SimRobot(), checkpoint.spec, []
    for seed in range(count):
        robot.reset(seed, spec.instructions[seed])
        state, _ = robot.joint_state()
        observations.append(Observation(0, robot.images(), robot.joint_names, state, robot.instruction))
    return Buffer.fill(observations, [""] * count, checkpoint.config, 0, "first frames")


@pytest.mark.parametrize(("weights", "expected"), [(10**9, [0, 2, 4]), (1, [0, 3]), (0, [0, 3])])
def test_passes_of_a_large_network_take_fewer_observations(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, weights: int, expected: list[int]
) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    monkeypatch.setattr(exact_module, "_WEIGHTS", weights)
    assert list(spread(Probe.open(checkpoint, buffer_of(checkpoint, 6)), 3)) == expected
