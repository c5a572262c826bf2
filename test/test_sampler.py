"""Guided flows: what the closed form is, that it needs no gradient, and where it leads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_memory import quantized
from test_pi0 import CPU, IMAGE_TOKEN_ID, assembled, inputs, random_policy, tiny_config
from torch import Tensor

from vlaq_ros.calibrate.flow import live
from vlaq_ros.policy.cache import Cache
from vlaq_ros.policy.pi0 import PI0Network
from vlaq_ros.policy.sampler import Sampler
from vlaq_ros.quant.kernels import select
from vlaq_ros.quant.linear import view

CONFIG = tiny_config()
BATCH, T, A = 2, CONFIG.chunk_size, CONFIG.max_action_dim
GIVEN = inputs(CONFIG, BATCH, 1)
TOKENS = GIVEN["input_ids"].shape[1]
GUIDE = torch.randn(BATCH, T, A, generator=torch.Generator().manual_seed(5))
SOFT = torch.tensor([1.0, 1.0, 0.6, 0.3, 0.1, 0.0])[:, None].expand(BATCH, T, A)
Correct = Callable[[Tensor, Callable[[Tensor], Tensor], Tensor, float], tuple[Tensor, Tensor]]


@pytest.fixture(scope="module")
def network() -> PI0Network:
    return assembled(random_policy(CONFIG))


def flow(network: PI0Network, steps: int = 4, **guidance: Tensor) -> Tensor:
    sampler = Sampler(network, CONFIG, steps, compiled=False)
    text = torch.stack([network.words(row[row != IMAGE_TOKEN_ID]) for row in GIVEN["input_ids"]])
    cache = Cache(CONFIG, BATCH, TOKENS, torch.float32, CPU)
    return sampler(cache, GIVEN["pixel_values"], text, GIVEN["state"], GIVEN["noise"], **guidance)


def by_hand(network: PI0Network, steps: int, correct: Correct) -> Tensor:
    """Euler's method with the paper's weight, written out, over a network that gradients pass."""
    sampler = Sampler(network, CONFIG, steps, compiled=False)
    text = torch.stack([network.words(row[row != IMAGE_TOKEN_ID]) for row in GIVEN["input_ids"]])
    cache = live(Cache(CONFIG, BATCH, TOKENS, torch.float32, CPU))
    sampler._remember(cache, GIVEN["pixel_values"], text)
    x_t = GIVEN["noise"]
    for step in range(steps):
        time = 1 - step / steps
        state = GIVEN["state"] if step == 0 else None
        one = partial(sampler._step, bias=sampler._biases[step], time=None, pull=None, guide=None, weights=None)

        def velocity(x: Tensor, one: Callable[..., Tensor] = one, state: Tensor | None = state) -> Tensor:
            return (x - one(cache, state, x)) * steps

        v_t, correction = correct(x_t.detach(), velocity, SOFT, time)
        tau = 1 - time
        pull = steps if tau == 0 else min(steps, (time / tau) * (tau**2 + time**2) / time**2)
        x_t = (x_t - (v_t - pull * correction) / steps).detach()
    return x_t


def as_released(
    x_t: Tensor, velocity: Callable[[Tensor], Tensor], weights: Tensor, time: float
) -> tuple[Tensor, Tensor]:
    """LeRobot's order: the network runs before its input asks for a gradient."""
    x_t = x_t.clone().detach()
    v_t = velocity(x_t)
    x_t.requires_grad_(True)
    x1_t = x_t - time * v_t
    error = (GUIDE - x1_t) * weights
    correction = torch.autograd.grad(x1_t, x_t, error.clone().detach())[0]
    assert torch.equal(correction, error)
    return v_t.detach(), correction


def as_written(
    x_t: Tensor, velocity: Callable[[Tensor], Tensor], weights: Tensor, time: float
) -> tuple[Tensor, Tensor]:
    """The paper's: the error taken back through the network."""
    x_t = x_t.clone().detach().requires_grad_(True)
    v_t = velocity(x_t)
    x1_t = x_t - time * v_t
    error = (GUIDE - x1_t) * weights
    correction = torch.autograd.grad(x1_t, x_t, error.clone().detach())[0]
    assert (correction - error).norm() > 0.05 * error.norm()
    return v_t.detach(), correction


def test_the_released_correction_is_the_error_itself_and_so_is_ours(network: PI0Network) -> None:
    torch.testing.assert_close(flow(network, guide=GUIDE, weights=SOFT), by_hand(network, 4, as_released))


def test_the_whole_jacobian_leads_elsewhere(network: PI0Network) -> None:
    ours, written = flow(network, guide=GUIDE, weights=SOFT), by_hand(network, 4, as_written)
    free = flow(network)
    assert (ours - written).norm() > 1e-3 * (ours - free).norm()
    assert (written - GUIDE)[:, 0].norm() < 0.5 * (free - GUIDE)[:, 0].norm(), "both lead to the guide"


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_where_all_weights_are_0_the_flow_is_the_free_one_to_the_bit(network: PI0Network, steps: int) -> None:
    policy = random_policy(CONFIG)
    for held in (network, view(quantized(policy, select.chosen(CPU)), 1, 8)):
        with torch.inference_mode():
            assert torch.equal(flow(held, steps, guide=GUIDE, weights=torch.zeros(BATCH, T, A)), flow(held, steps))


def test_a_whole_step_of_full_weight_ends_at_the_guide(network: PI0Network) -> None:
    torch.testing.assert_close(flow(network, 1, guide=GUIDE, weights=torch.ones(BATCH, T, A)), GUIDE)


@settings(deadline=None, max_examples=10)
@given(steps=st.integers(2, 12), layer=st.sampled_from(["float", "4 bits"]))
def test_a_flow_leads_to_its_guide_on_integer_layers_too(steps: int, layer: str) -> None:
    policy = random_policy(CONFIG)
    held = assembled(policy) if layer == "float" else view(quantized(policy, select.chosen(CPU)), 1, 8)
    with torch.inference_mode():
        free, guided = flow(held, steps), flow(held, steps, guide=GUIDE, weights=SOFT)
    off, remaining = ((actions - GUIDE).norm(dim=(0, 2)) for actions in (free, guided))
    assert (remaining[:2] < 0.35 * off[:2]).all(), "steps that are committed"
    assert (remaining[2:5] < off[2:5]).all(), "steps that are drawn along"
