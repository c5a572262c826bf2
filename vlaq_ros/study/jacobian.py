"""Guidance as the paper of real-time chunking has it, to hold ours against: the error goes back through the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlaq_ros.calibrate.flow import live
from vlaq_ros.evaluate.rollout import Answering
from vlaq_ros.policy.cache import Cache
from vlaq_ros.policy.description import Description
from vlaq_ros.policy.engine import Engine
from vlaq_ros.policy.manifest import PrecisionPlan
from vlaq_ros.policy.pi0 import PI0Network
from vlaq_ros.policy.sampler import Sampler


class JacobianSampler(Sampler):
    """Corrects the velocity by the vector-Jacobian product of what the flow aims at with its error (eq. 2 and 3)."""

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
        if guide is None or weights is None:
            return super()._step(cache, state, actions, bias=bias, time=time, pull=pull, guide=None, weights=None)
        with torch.enable_grad():
            start = actions.detach().requires_grad_()
            free = super()._step(cache, state, start, bias=bias, time=time, pull=pull, guide=None, weights=None)
            aim = start - time * self._steps * (start - free)
            (correction,) = torch.autograd.grad(aim, start, weights * (guide - aim).detach())
        return free.detach() + pull / self._steps * correction


class JacobianEngine(Engine):
    """An engine whose flows are guided so; integer layers have no gradient, so it is one of full precision."""

    def __init__(
        self,
        description: Description,
        networks: Mapping[str, PI0Network],
        plans: Sequence[PrecisionPlan],
        *rest: Any,
        compiled: bool,
    ) -> None:
        super().__init__(description, networks, plans, *rest, compiled=compiled)
        with torch.no_grad():
            self._samplers = {
                plan.name: JacobianSampler(networks[plan.name], description.config, plan.denoise_steps, compiled=False)
                for plan in plans
            }

    def _sample(self, precision: str, tokens: int, inputs: Mapping[str, Tensor]) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            held = live(Cache(self._config, len(inputs["noise"]), tokens, self._dtype, self._device))
            return self._samplers[precision](held, **{name: value.clone() for name, value in inputs.items()})


@cache
def load(model: Path, _: str) -> Answering:
    """Load the checkpoint that `model` is or was made of, once in a process."""
    return JacobianEngine.load(model, full=True)
