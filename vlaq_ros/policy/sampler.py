"""The flow of pi0 (arXiv 2410.24164): noise becomes actions in Euler steps from time 1 to 0.

A guided flow continues a motion that is under way: real-time chunking (Black, Galliker and Levine, arXiv 2506.07339).
At time t the flow aims at x1 = x_t - t v. What x1 lacks of the guide, weighted, corrects the velocity. The paper takes
that error back through the network; we leave out the network's part of that Jacobian, as LeRobot's released code does,
and what remains is the identity. So guidance needs no gradient, and runs on integer layers, in inference mode and in
CUDA graphs (docs/seams.md says what the whole Jacobian would change).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import linear, silu
from transformers import PI0Config

from vlaq_ros.policy.cache import Cache
from vlaq_ros.policy.pi0 import PI0Network, towers


class Sampler:
    """A network with a number of steps: what depends on the time alone is computed here, once.

    An action enters through two linears with nothing between them, the second of which also gets the time: they are
    folded into one whose bias is the step's.

    Args:
        network: of the precision.
        config: of the network.
        steps: of Euler's method.
        compiled: run prefix and steps through torch.compile.
    """

    def __init__(self, network: PI0Network, config: PI0Config, steps: int, *, compiled: bool) -> None:
        self._network, self._steps = network, steps
        self._run_prefix = torch.compile(self._remember, dynamic=False) if compiled else self._remember
        self._run_step = torch.compile(self._step, dynamic=False) if compiled else self._step
        for_action, for_time = network.time_in.weight.float().chunk(2, dim=1)
        biases = linear(_embed(config, steps).to(for_time.device), for_time, network.time_in.bias.float())
        biases += for_action @ network.action_in.bias.float()
        dtype = network.time_in.weight.dtype
        self._action_in = (for_action @ network.action_in.weight.float()).to(dtype)  # [D, A]
        self._biases = biases.to(dtype)  # [steps, D]
        self._times = 1 - torch.arange(steps, device=biases.device) / steps  # [steps]
        self._pulls = _pulls(self._times, steps)

    def __call__(
        self,
        cache: Cache,
        pixels: Tensor,
        text: Tensor,
        state: Tensor,
        noise: Tensor,
        *,
        guide: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Give [B, T, A] normalised actions, what transformers' `sample_actions` gives with a mask of ones.

        Args:
            cache: for B prompts of this length; what it held is lost.
            pixels: [B, cameras, 3, H, W] in [-1, 1], in the dtype of the network, as all but the noise.
            text: [B, P, D] embedded words, which come after the images.
            state: [B, S], normalised.
            noise: [B, T, A] float32.
            guide: [B, T, A] float32, normalised actions that the flow is to lead to; None for a free flow.
            weights: [B, T, A] float32 in [0, 1], how far each of them binds; where all are 0 the flow is the free one.
        """
        self._run_prefix(cache, pixels, text)
        actions = noise
        for step, (bias, time, pull) in enumerate(zip(self._biases, self._times, self._pulls, strict=True)):
            given = state if step == 0 else None
            actions = self._run_step(
                cache, given, actions, bias=bias, time=time, pull=pull, guide=guide, weights=weights
            )
        return actions

    def _remember(self, cache: Cache, pixels: Tensor, text: Tensor) -> None:
        network = self._network
        images = network.projector(network.vision(pixels.flatten(0, 1))).view(len(text), -1, text.shape[-1])
        network.language(torch.cat([images, text], 1), cache.language)

    def _step(
        self,
        cache: Cache,
        state: Tensor | None,
        actions: Tensor,
        *,
        bias: Tensor,
        time: Tensor,
        pull: Tensor,
        guide: Tensor | None,
        weights: Tensor | None,
    ) -> Tensor:
        network = self._network
        tokens = network.time_out(silu(linear(actions.to(bias.dtype), self._action_in, bias)))
        if state is not None:
            tokens = torch.cat([network.state_in(state)[:, None], tokens], 1)
        hidden = network.expert(tokens, cache.later if state is None else cache.first)[:, -actions.shape[1] :]
        velocity = network.action_out(network.expert.norm(hidden)).to(actions.dtype)
        if guide is not None and weights is not None:
            velocity = velocity - pull * weights * (guide - (actions - time * velocity))
        return actions.sub(velocity, alpha=1 / self._steps)


def _embed(config: PI0Config, steps: int) -> Tensor:
    """Sines and cosines [steps, D] of the times of all steps."""
    _, _, expert = towers(config)
    fraction = torch.linspace(0, 1, expert.hidden_size // 2)
    period = config.min_period * (config.max_period / config.min_period) ** fraction
    angle = (1 - torch.arange(steps) / steps)[:, None] * (2 * math.pi / period)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def _pulls(times: Tensor, steps: int) -> Tensor:
    """How strongly the error corrects the velocity at each time: the paper's weight, eq. 2 and 4.

    It grows without bound at both ends, so it is cut off at the number of steps, as the paper's five are at 5: a whole
    step then closes the error at most, and never turns it round.
    """
    return ((times**2 + (1 - times) ** 2) / (times * (1 - times))).clamp(max=steps)
