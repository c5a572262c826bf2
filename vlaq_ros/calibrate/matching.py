"""Attention temperature matching and output head balancing of QuantVLA (arXiv 2602.20309), folded into weight scales.

Quantized, the action expert's attention logits L = Q K^T / sqrt(d) are spread less widely than before (a flatter
softmax), and its attention adds another amount of energy to the residual stream. One factor per head and one per layer
restore both:

    alpha[l, h] = std(L of the teacher) / std(L of the student)     L <- alpha L     (ATM)
    beta[l]     = rms(Z of the teacher) / rms(Z of the student)     Z <- beta Z      (OHB)

Z is what the output projection `o` gives, before it is added. A temperature is 1 / alpha: the paper's L_student =
L_teacher / alpha describes that ratio, and the correction multiplies. Both are ratios of means over observations and
denoising steps, of teacher and student under the same noise (the probe's).

Nothing of this runs at inference. L is linear in the rows of `qkv` that make the queries of a head (the rotary turn
comes after and is linear, and Gemma norms no queries), and Z in all rows of `o`: a factor of output channels is a
factor of their scales, which a `NestedWeight` has for every Precision.

Deviations from the released code, all of them repairs: noise is matched, all denoising steps of all observations count,
and beta is measured on a student that has its alpha. One pass measures alpha for all layers, not layer by layer: its
cost does not grow with depth, and what a layer's correction does to the layers behind it shows in the gaps, which are
measured anew with the corrections in force.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PI0Config

from vlaq_ros.calibrate.probe import Probe, watching
from vlaq_ros.policy.pi0 import PI0Network, towers
from vlaq_ros.quant.codes import NestedWeight


@dataclass(frozen=True, slots=True)
class Clip:
    """The bounds of a factor, and the neutral band around 1 in which a network is left as it is."""

    low: float
    high: float
    neutral_low: float
    neutral_high: float

    def __call__(self, factor: Tensor) -> Tensor:
        """Give the factors that are applied."""
        neutral = (factor > self.neutral_low) & (factor < self.neutral_high)
        return factor.clamp(self.low, self.high).masked_fill(neutral, 1.0)

    def clamped(self, factor: Tensor) -> int:
        """Count the applied factors that a bound has stopped."""
        return int(((factor == self.low) | (factor == self.high)).sum())


# The released code's. For alpha, others are published: 1 +- 0.4 with a neutral band of 0.03 in the paper's body, and
# |log alpha| <= 0.30 in its appendix D.
ALPHA = Clip(0.7, 1.4, 0.98, 1.02)
BETA = Clip(math.exp(-0.30), math.exp(0.30), math.exp(-0.03), math.exp(0.03))
_EPSILON = 1e-6  # the released code's; added to both sides, so that a head silent in both networks has a ratio of 1


@dataclass(frozen=True, slots=True)
class Statistics:
    """What matching compares: means over all observations and denoising steps, for L layers of the expert with H heads.

    Both are float64 on the CPU.
    """

    spread: Tensor  # [L, H]: standard deviation of the logits of one observation in one step, over unmasked pairs
    energy: Tensor  # [L]: root mean square of what the attention adds to the residual stream


@dataclass(frozen=True, slots=True)
class Gaps:
    """How far a student's attention is from its teacher's: 0 is none."""

    logit: float  # mean over layers and heads of |log(teacher's spread / student's)|
    residual: float  # mean over layers of |log(teacher's energy / student's)|


@dataclass(frozen=True, slots=True)
class Matching:
    """The corrections of one Precision, float64, and what they did."""

    alpha: Tensor  # [L, H], factors of the logits
    beta: Tensor  # [L], factors of the attention's output
    before: Gaps  # of the student as it was
    after: Gaps  # of the student with the corrections in force

    @property
    def clamped(self) -> tuple[int, int]:
        """How many alphas and how many betas a bound has stopped."""
        return ALPHA.clamped(self.alpha), BETA.clamped(self.beta)

    @property
    def neutral(self) -> tuple[int, int]:
        """How many alphas and how many betas are 1: too close to it to matter."""
        return int((self.alpha == 1).sum()), int((self.beta == 1).sum())


def measure(probe: Probe, network: PI0Network) -> Statistics:
    """Run a network on the probe's observations, noise and steps, and watch the expert's attention."""
    _, _, expert = towers(probe.config)
    layers, heads = expert.num_hidden_layers, expert.num_attention_heads
    spread, energy = torch.zeros(layers, heads, dtype=torch.float64), torch.zeros(layers, dtype=torch.float64)
    runs = torch.zeros(layers, dtype=torch.float64)  # observations times steps
    outputs = {f"expert.layers.{layer}.o": layer for layer in range(layers)}

    def on_attention(tower: str, layer: int, query: Tensor, keys: Tensor, mask: Tensor | None) -> None:
        if tower == "expert":
            spread[layer] += spreads(query, keys, mask).double().sum(dim=0).cpu()
            runs[layer] += len(query)

    def on_output(name: str, x: Tensor, y: Tensor) -> None:
        energy[outputs[name]] += y.float().square().mean(dim=(1, 2)).sqrt().double().sum().cpu()

    with watching(network, outputs, on_output):
        probe.actions(network, look=on_attention)
    return Statistics(spread / runs[:, None], energy / runs)


def spreads(query: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
    """Give the standard deviation of attention logits: [B, H].

    Args:
        query: [B, n, H, D], turned.
        keys: [B, G, m, D], turned; H / G neighbouring heads share one.
        mask: [n, m] bool, false for pairs that do not count; None: all count.
    """
    shared = keys.repeat_interleave(query.shape[2] // keys.shape[1], dim=1).float()
    logits = query.float().transpose(1, 2) @ shared.transpose(2, 3) / math.sqrt(query.shape[-1])
    pairs = logits.flatten(2) if mask is None else logits[:, :, mask]
    return pairs.std(dim=2, correction=0)


def gaps(teacher: Statistics, student: Statistics) -> Gaps:
    """Compare two networks."""
    return Gaps(
        logit=float(_ratio(teacher.spread, student.spread).log().abs().mean()),
        residual=float(_ratio(teacher.energy, student.energy).log().abs().mean()),
    )


def match(probe: Probe, teacher: Statistics, student: Callable[[Mapping[str, Tensor]], PI0Network]) -> Matching:
    """Find the corrections of one Precision, in three runs over the probe's observations.

    Args:
        probe: observations and noise.
        teacher: `measure` of the network in full precision.
        student: gives the quantized network with these gains, as `gains` has them, `fold`ed in; none at first. Where it
            cannot fold them (see there), the gap after tells.
    """
    plain = measure(probe, student({}))
    alpha = ALPHA(_ratio(teacher.spread, plain.spread))
    tempered = measure(probe, student(gains(alpha, torch.ones_like(plain.energy), probe.config)))
    beta = BETA(_ratio(teacher.energy, tempered.energy))
    balanced = measure(probe, student(gains(alpha, beta, probe.config)))
    return Matching(alpha, beta, gaps(teacher, plain), gaps(teacher, balanced))


def gains(alpha: Tensor, beta: Tensor, config: PI0Config) -> dict[str, Tensor]:
    """Write corrections as factors of output channels: of the expert's `qkv` and `o`, by layer, [O] float32.

    Args:
        alpha: [L, H].
        beta: [L].
        config: of the network.
    """
    _, _, expert = towers(config)
    rest = torch.ones(2 * expert.num_key_value_heads * expert.head_dim)  # keys and values
    factors: dict[str, Tensor] = {}
    for layer, (heads, output) in enumerate(zip(alpha.float(), beta.float(), strict=True)):
        factors[f"expert.layers.{layer}.qkv"] = torch.cat([heads.repeat_interleave(expert.head_dim), rest])
        factors[f"expert.layers.{layer}.o"] = output.expand(expert.hidden_size)
    return factors


def fold(weight: NestedWeight, gains: Tensor) -> NestedWeight:
    """Multiply output channels by their gains, in every Precision by its own.

    Coded channels have a scale per Precision. Channels in 16 bits are stored once for all Precisions and have none:
    they take a gain that all Precisions share, and are left alone where these differ. So in the selective layout, with
    the expert's attention in 16 bits, matching corrects a static plan and not one that switches.

    Args:
        weight: of one layer.
        gains: [P, O].
    """
    common = gains[0].where((gains == gains[0]).all(dim=0), torch.ones_like(gains[0]))
    half = (weight.half.float() * common[weight.half_rows, None]).to(weight.half.dtype)
    return replace(weight, scale=weight.scale * gains[:, weight.rows], half=half)


def _ratio(teacher: Tensor, student: Tensor) -> Tensor:
    return (teacher + _EPSILON) / (student + _EPSILON)
