"""The full-precision network and the observations that it is calibrated on: what every method looks through."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PI0Config

from vlaq_ros.calibrate.buffer import Buffer
from vlaq_ros.calibrate.flow import Look, live
from vlaq_ros.policy import pi0
from vlaq_ros.policy.cache import Cache
from vlaq_ros.policy.checkpoint import Checkpoint
from vlaq_ros.policy.encoder import Encoder
from vlaq_ros.policy.pi0 import PI0Network
from vlaq_ros.policy.sampler import Sampler
from vlaq_ros.policy.spec import PolicySpec

BATCH = 16  # observations at a time, at most
_BYTES = 2 << 30  # of the outputs of quantized layers in one pass; a graph for gradients holds several times that
Watch = Callable[[str, Tensor, Tensor], None]


@dataclass(frozen=True, slots=True)
class Batch:
    """B observations of equally long prompts, as a network takes them."""

    rows: tuple[int, ...]  # in the buffer
    tokens: int  # of a prompt
    pixels: Tensor  # [B, cameras, 3, H, W]
    text: Tensor  # [B, P, D] embedded words
    state: Tensor  # [B, S]
    noise: Tensor  # [B, T, A']

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What a sampler takes after its cache."""
        return self.pixels, self.text, self.state, self.noise


class Probe:
    """A network in full precision, and a buffer in batches that it can run.

    Args:
        checkpoint: which policy it is.
        network: its modules, in float32 for differentiation on a CPU.
        buffer: of N observations.

    Attributes:
        config, spec: of the checkpoint.
        network: in full precision; its parameters ask for no gradients.
        buffer: of N observations.
        batches: of the buffer, at most `BATCH` observations each, fewer where activations are large, at least one.
        steps: of the flow.
    """

    def __init__(self, checkpoint: Checkpoint, network: PI0Network, buffer: Buffer) -> None:
        self.config: PI0Config = checkpoint.config
        self.spec: PolicySpec = checkpoint.spec
        self.network, self.buffer, self.steps = network, buffer, checkpoint.spec.denoising_steps
        self._checkpoint = checkpoint
        self.batches = _batches(Encoder(checkpoint, network), buffer, network)

    @classmethod
    def open(cls, checkpoint: Checkpoint, buffer: Buffer) -> Probe:
        """Read the weights.

        Raises:
            CorruptModelError: a weight cannot be read.
            UnknownInstructionError, CameraNamesError, JointNamesError: the buffer is not for this policy.
        """
        network = pi0.assemble(checkpoint.config, checkpoint.parameters(), {}, torch.float32, torch.device("cpu"))
        return cls(checkpoint, network, buffer)

    def of(self, network: PI0Network) -> Probe:
        """Look through another network of the same configuration, such as one that acts alike."""
        return Probe(self._checkpoint, network, self.buffer)

    @cached_property
    def teacher(self) -> Tensor:
        """What the network answers itself: normalised actions [N, T, A]."""
        return self.actions(self.network)

    @torch.inference_mode()
    def actions(
        self,
        network: PI0Network,
        steps: int | None = None,
        rows: Sequence[int] | None = None,
        look: Look | None = None,
    ) -> Tensor:
        """Run a network on the buffer, from the buffer's noise.

        Args:
            network: of the same configuration.
            steps: of the flow; None for the checkpoint's own.
            rows: of the buffer; None for all N.
            look: told of every attention.

        Returns:
            Normalised actions [N, T, A], or those of `rows`.
        """
        sampler = Sampler(network, self.config, steps or self.steps, compiled=False)
        wanted = range(len(self.buffer.observations)) if rows is None else rows
        answers: dict[int, Tensor] = {}
        for batch in self.batches:
            chosen = [k for k, row in enumerate(batch.rows) if row in set(wanted)]
            if chosen:
                inputs = [part[chosen] for part in batch.inputs]
                cache = self._cache(len(chosen), batch.tokens)
                actions = sampler(live(cache, look) if look else cache, *inputs)[..., : self._columns]
                answers |= zip([batch.rows[k] for k in chosen], actions, strict=True)
        return torch.stack([answers[row] for row in wanted])

    def differentiable(self, network: PI0Network, batch: Batch) -> Tensor:
        """Give normalised actions [B, T, A] through which gradients reach the outputs of the network's linears."""
        sampler = Sampler(network, self.config, self.steps, compiled=False)
        cache = live(self._cache(len(batch.rows), batch.tokens))
        return sampler(cache, *batch.inputs)[..., : self._columns]

    def nmse(self, actions: Tensor) -> float:
        """Hold actions [N, T, A] against the teacher's: the square of their difference over that of the teacher's."""
        return float((actions - self.teacher).square().sum() / self.teacher.square().sum())

    @property
    def _columns(self) -> int:
        return len(self.spec.action_mean.T)

    def _cache(self, batch: int, tokens: int) -> Cache:
        weight = self.network.projector.weight
        return Cache(self.config, batch, tokens, weight.dtype, weight.device)


def layers(network: PI0Network) -> dict[str, nn.Linear]:
    """Give the linears that a bundle quantizes by their names, in the order of a forward pass."""
    return {name: cast("nn.Linear", module) for name, module in network.named_modules() if pi0.is_quantized(name)}


def shapes(network: PI0Network) -> dict[str, torch.Size]:
    """Give (O, K) of these linears."""
    return {name: linear.weight.shape for name, linear in layers(network).items()}


@contextmanager
def watching(network: PI0Network, names: Iterable[str], callback: Watch) -> Iterator[None]:
    """Tell `callback(name, x [..., K], y [..., O])` of every call of some linears of a network."""

    def tell(name: str, _: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        callback(name, inputs[0], output)

    hooks = [network.get_submodule(name).register_forward_hook(partial(tell, name)) for name in names]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _batches(encoder: Encoder, buffer: Buffer, network: PI0Network) -> list[Batch]:
    alike = defaultdict(list)
    for row, observation in enumerate(buffer.observations):
        alike[len(encoder.prompt(observation))].append(row)
    device = network.projector.weight.device
    outputs = sum(linear.out_features for linear in layers(network).values())
    batches = []
    for tokens, rows in alike.items():
        size = min(BATCH, max(1, _BYTES // (4 * outputs * tokens)))
        for first in range(0, len(rows), size):
            part = rows[first : first + size]
            with torch.no_grad():
                encoded = encoder([buffer.observations[row] for row in part])
            noise = torch.tensor(buffer.noise[part], dtype=torch.float32, device=device)
            batches.append(Batch(tuple(part), tokens, *encoded, noise))
    return batches
