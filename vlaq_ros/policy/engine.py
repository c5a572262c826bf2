"""A trained policy in memory: its weights once, and one network per precision that reads them."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vlaq_ros.datatypes import ActionChunk, FloatArray, Guide, Observation
from vlaq_ros.errors import UnknownPrecisionError
from vlaq_ros.policy import bundle, pi0
from vlaq_ros.policy.bundle import Bundle
from vlaq_ros.policy.cache import Cache
from vlaq_ros.policy.description import Description
from vlaq_ros.policy.encoder import Encoder
from vlaq_ros.policy.graphs import Graph
from vlaq_ros.policy.manifest import PrecisionPlan
from vlaq_ros.policy.memory import Memory, Meter
from vlaq_ros.policy.pi0 import CodedEmbedding, PI0Network
from vlaq_ros.policy.sampler import Sampler
from vlaq_ros.policy.transforms import denormalize, normalize
from vlaq_ros.quant.kernels import select
from vlaq_ros.quant.kernels.select import Kernel
from vlaq_ros.quant.linear import NestedLinear, view

FULL = "full"  # names the source checkpoint where a precision is asked for


class Engine:
    """Implements `datatypes.Policy`. Any thread may ask at any time; they take turns, for the buffers are static.

    Attributes:
        spec: how observations enter and numbers become actions.
        plans: of the loaded precisions, finest first.
        kernel: of this machine, for quantized linears.
        memory: what is held for all precisions together.
    """

    guidable = True

    def __init__(
        self,
        description: Description,
        networks: Mapping[str, PI0Network],
        plans: Sequence[PrecisionPlan],
        kernel: Kernel,
        memory: Memory,
        *,
        compiled: bool,
    ) -> None:
        self.spec, self.plans, self.kernel, self.memory = description.spec, tuple(plans), kernel, memory
        self._config, self._prompts = description.config, description.prompts
        network = next(iter(networks.values()))
        self._encoder = Encoder(description, network)
        self._dtype, self._device = network.projector.weight.dtype, network.projector.weight.device
        with torch.inference_mode():
            self._samplers = {
                plan.name: Sampler(networks[plan.name], self._config, plan.denoise_steps, compiled=compiled)
                for plan in plans
            }
        self._turn = threading.Lock()
        self._caches: dict[int, Cache] = {}  # for one prompt, by its number of tokens
        self._graphs: dict[tuple[str, int], Graph] = {}  # by precision and number of tokens
        self._pool = torch.cuda.graph_pool_handle() if self._device.type == "cuda" else None

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        full: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        compiled: bool = False,
    ) -> Engine:
        """Read a policy into memory.

        Args:
            directory: a bundle, for its precisions; `Bundle.load` says what it may raise.
            full: hold nothing but the checkpoint that `directory` is or was made of, as the one precision "full";
                `bundle.source` says what it may raise.
            dtype: of what is not quantized; None for bfloat16 where the hardware multiplies it, else float32.
            device: None for the GPU if there is one, else the CPU.
            compiled: run the denoising steps and the prefix through torch.compile; the first inference then takes
                minutes.
        """
        device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = dtype or native_dtype(device)
        kernel, meter = select.chosen(device), Meter(device)
        if full:
            source = bundle.source(directory)
            network = pi0.assemble(source.config, source.parameters(), {}, dtype, device)
            plans: tuple[PrecisionPlan, ...] = (PrecisionPlan(FULL, 16, source.spec.denoising_steps, 0.0),)
            memory = meter.read(source.config, [network])
            return cls(source, {FULL: network}, plans, kernel, memory, compiled=compiled)
        held = Bundle.load(directory)
        plans = held.manifest.precisions
        by_precision = networks(held, kernel, dtype, device)
        memory = meter.read(held.config, by_precision.values())
        return cls(held, by_precision, plans, kernel, memory, compiled=compiled)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Names of the loaded precisions, finest first."""
        return tuple(self._samplers)

    @property
    def noise_shape(self) -> tuple[int, int]:
        """[T, A] of the noise that a flow starts from; A may exceed the columns of an action."""
        return self._config.chunk_size, self._config.max_action_dim

    @property
    def bytes_over_bf16(self) -> dict[str, float]:
        """Bytes held for all precisions over those of bf16: for the `linears` that a bundle quantizes, and `all`."""
        return self.memory.over_bf16

    def infer(
        self, observation: Observation, precision: str, noise: FloatArray, guide: Guide | None = None
    ) -> ActionChunk:
        """Compute one chunk; `noise` is of `noise_shape`. Raises as `infer_batch` does."""
        return self.infer_batch([observation], precision, noise[None], [guide])[0]

    def infer_batch(
        self,
        observations: Sequence[Observation],
        precision: str,
        noise: FloatArray,
        guides: Sequence[Guide | None] | None = None,
    ) -> list[ActionChunk]:
        """Compute a chunk for each of B observations.

        Args:
            observations: B of them; other cameras and joints than the policy's own are passed over.
            precision: one of `precisions`.
            noise: [B, *noise_shape], standard normal: where the flow starts.
            guides: B of them, where a flow is to lead; None for a free one, or for none at all.

        Raises:
            UnknownPrecisionError: `precision` is not loaded.
            UnknownInstructionError: an instruction is none that the policy was trained on.
            CameraNamesError: an observation lacks a camera.
            JointNamesError: an observation lacks a joint.
            ValueError: `noise` has another shape.
        """
        if precision not in self._samplers:
            raise UnknownPrecisionError(precision, self.precisions)
        expected = (len(observations), *self.noise_shape)
        if noise.shape != expected:
            raise ValueError(f"noise has shape {noise.shape}, expected {expected}")
        alike = defaultdict(list)  # prompts of one length make a batch
        for index, observation in enumerate(observations):
            alike[len(self._encoder.prompt(observation))].append(index)
        actions = np.empty((len(observations), self._config.chunk_size, self.spec.action_mean.shape[-1]))
        guidance = self._guidance(guides or [None] * len(observations))
        for indices in alike.values():
            chosen = [observations[index] for index in indices]
            batch = self._infer(chosen, precision, noise[indices], guidance[:, indices])
            actions[indices] = batch[..., : actions.shape[-1]]
        chunks = denormalize(actions, self.spec.action_mean, self.spec.action_std)
        return [
            ActionChunk(observation.stamp_ns, self.spec.step_s, self.spec.action_space, chunk)
            for observation, chunk in zip(observations, chunks, strict=True)
        ]

    def warm_up(self, precision: str) -> None:
        """Run a precision once on every length of prompt: the first run pays for what the libraries set up."""
        size = self.spec.image_size_px
        black = np.zeros((size, size, 3), dtype=np.uint8)
        lengths = {len(prompt): instruction for instruction, prompt in self._prompts.items()}
        for instruction in lengths.values():
            observation = Observation(
                stamp_ns=0,
                images=dict.fromkeys(self.spec.cameras, black),
                joint_names=self.spec.joint_names,
                joint_positions=self.spec.state_mean,
                instruction=instruction,
            )
            self.infer(observation, precision, np.zeros(self.noise_shape))

    def _guidance(self, guides: Sequence[Guide | None]) -> FloatArray:
        """What flows are to lead to, normalised, and its weights [2, B, T, A]: 0 for a free flow and columns beyond."""
        guidance = np.zeros((2, len(guides), *self.noise_shape))
        mean, std = self.spec.action_mean, self.spec.action_std
        for row, guide in enumerate(guides):
            if guide is not None:
                bound = guide.weights[:, None] > 0  # what is not read may be nan
                guidance[0, row, :, : mean.shape[-1]] = np.where(bound, normalize(guide.actions, mean, std), 0.0)
                guidance[1, row, :, : mean.shape[-1]] = guide.weights[:, None]
        return guidance

    @torch.inference_mode()
    def _infer(
        self, observations: Sequence[Observation], precision: str, noise: FloatArray, guidance: FloatArray
    ) -> FloatArray:
        """Give the normalised actions [B, T, A] of observations whose prompts are equally long."""
        with self._turn:
            pixels, text, state = self._encoder(observations)
            start, guide, weights = torch.tensor(np.stack([noise, *guidance]), dtype=torch.float32, device=self._device)
            observed = {"pixels": pixels, "text": text, "state": state}
            inputs = {**observed, "noise": start, "guide": guide, "weights": weights}
            return self._sample(precision, len(self._encoder.prompt(observations[0])), inputs).numpy(force=True)

    def _sample(self, precision: str, tokens: int, inputs: Mapping[str, Tensor]) -> Tensor:
        sampler, batch = self._samplers[precision], len(inputs["noise"])
        if batch > 1:  # closed-loop evaluation, whose batches shrink
            return sampler(Cache(self._config, batch, tokens, self._dtype, self._device), **inputs)
        if tokens not in self._caches:
            self._caches[tokens] = Cache(self._config, 1, tokens, self._dtype, self._device)
        if self._pool is None:
            return sampler(self._caches[tokens], **inputs)
        if (precision, tokens) not in self._graphs:
            self._graphs[precision, tokens] = Graph(sampler, self._caches[tokens], inputs, self._pool)
        return self._graphs[precision, tokens](inputs)


def networks(held: Bundle, kernel: Kernel, dtype: torch.dtype, device: torch.device) -> dict[str, PI0Network]:
    """Make the network of every precision over the same tensors.

    The bundle's codes are let go of one by one, as those in the kernel's layout take their place.
    """
    replaced: dict[str, nn.Module] = {}
    for name in list(held.nested):
        bias = held.tensors.pop(f"{name}.bias", None)
        linear = NestedLinear(held.nested.pop(name), None if bias is None else bias.float(), 0, 8, kernel)
        replaced[name] = linear.to(device)
    if "embed_tokens.weight_codes" in held.tensors:
        codes, scale = (held.tensors.pop(f"embed_tokens.weight_{part}") for part in ("codes", "scale"))
        replaced["embed_tokens"] = CodedEmbedding(codes, scale).to(device)
    finest = pi0.assemble(held.config, held.tensors.items(), replaced, dtype, device)
    return {plan.name: view(finest, k, plan.activation_bits) for k, plan in enumerate(held.manifest.precisions)}


def native_dtype(device: torch.device) -> torch.dtype:
    """Give the float type that a device multiplies fastest: bfloat16, or float32 on a CPU without units for it."""
    features = torch.cpu.get_capabilities()
    multiplied = device.type == "cuda" or features.get("amx_bf16") or features.get("avx512_bf16")
    return torch.bfloat16 if multiplied else torch.float32
