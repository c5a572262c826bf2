"""SmoothQuant (arXiv 2211.10438) and AWQ (arXiv 2306.00978): scales per input channel, folded into what comes before.

A layer computes W x = (W diag(s)) (x / s). Where x comes from a norm or, linearly, from another layer, that one can
give x / s itself: at full precision nothing changes, at inference nothing is added, and W diag(s) may lose less.

    before                       s for
    norm1                        qkv (of the last language layer: kv)
    norm2                        fc1, gate_up
    the values of qkv, kv        out, o
    the up half of gate_up       down

A value channel is shared by the query heads of its group, and by both Gemma towers, for the expert reads the values of
the language layer beside it: one s for the `o` of both. Before fc2 lies a GELU, which no scale passes.

torchao multiplies by 1 / s at inference, and llm-compressor maps the separate projections of transformers' modules;
neither knows fused rows, or values that two towers share, so this is ours.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PI0Config

from vlaq_ros.calibrate.probe import Probe, layers, watching
from vlaq_ros.calibrate.students import student
from vlaq_ros.policy.pi0 import PI0Network, RMSNorm, is_quantized_weight, towers
from vlaq_ros.quant.codes import decode, quantize
from vlaq_ros.quant.hadamard import rotate

_ALPHA = 0.5  # SmoothQuant's: how much of the activations' range moves into the weights
_EXPONENTS = torch.linspace(0, 1, 21).tolist()  # AWQ's grid
_KEPT = 32  # tokens of every call of a layer, on which AWQ tries its scales
_SMALLEST = 1e-4  # scale, of the largest: a channel that was never active must not leave the range of 16 bits
_TINY = torch.finfo(torch.float32).tiny
_NORMS = {"qkv": "norm1", "kv": "norm1", "fc1": "norm2", "gate_up": "norm2"}
_LINEARS = {"out": "qkv", "down": "gate_up"}


@dataclass(frozen=True, slots=True, eq=False)
class Seam:
    """C channels between modules, across which a scale can be moved."""

    makers: tuple[str, ...]  # norms or linears whose last C outputs are the channels
    takers: dict[str, Tensor]  # quantized linear -> [K], the channel that each of its inputs is

    def gathered(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Average over the inputs that are one channel, each taker counting alike: {taker: [K]} to [C]."""
        means = [channels.bincount(inputs[name]) / channels.bincount() for name, channels in self.takers.items()]
        return torch.stack(means).mean(dim=0)


@dataclass(slots=True, eq=False)
class Inputs:
    """What entered a layer, over all tokens of all calls."""

    largest: Tensor  # [K], of |x|
    total: Tensor  # [K], the sum of |x|
    tokens: int
    kept: list[Tensor]  # some tokens of every call: [n, K] each


@dataclass(frozen=True, slots=True, eq=False)
class Smoothing:
    """Scales that cancel each other in a whole network."""

    scales: dict[str, Tensor]  # quantized linear -> [K], which the columns of its weight are multiplied by
    divisors: dict[str, Tensor]  # norm or quantized linear -> [O], which its outputs are divided by


def seams(network: PI0Network, config: PI0Config) -> list[Seam]:
    """Give all seams of a network."""
    return [*norm_seams(network), *_within_layers(network, _LINEARS), *_value_seams(network, config)]


def norm_seams(network: PI0Network) -> list[Seam]:
    """Give the seams behind norms, where activations stand out most: those that SmoothQuant uses."""
    return _within_layers(network, _NORMS)


def _within_layers(network: PI0Network, makers: Mapping[str, str]) -> list[Seam]:
    found = []
    for name, linear in layers(network).items():
        layer, part = name.rsplit(".", 1)
        if part in makers:
            found.append(Seam((f"{layer}.{makers[part]}",), {name: torch.arange(linear.in_features)}))
    return found


def _value_seams(network: PI0Network, config: PI0Config) -> list[Seam]:
    _, language, _ = towers(config)
    linears = layers(network)
    values = torch.arange(language.num_key_value_heads * language.head_dim).view(-1, 1, language.head_dim)
    found = []
    for index in range(language.num_hidden_layers):
        beside = [f"{tower}.layers.{index}" for tower in ("language", "expert")]
        makers = [name for layer in beside for part in ("qkv", "kv") if (name := f"{layer}.{part}") in linears]
        takers = [name for layer in beside if (name := f"{layer}.o") in linears]
        sharing = {name: linears[name].in_features // values.numel() for name in takers}  # heads in a group
        channels = {name: values.expand(-1, heads, -1).flatten() for name, heads in sharing.items()}
        found.append(Seam(tuple(makers), channels))
    return found


def observe(probe: Probe, names: Iterable[str], report: Callable[[int], None]) -> dict[str, Inputs]:
    """Collect what enters layers, in one pass.

    Memory: 32 tokens of K numbers for every call of a layer, of which an expert's has as many as denoising steps.

    Args:
        probe: the network and its observations.
        names: of quantized linears.
        report: called with the number of observations done.
    """
    found: dict[str, Inputs] = {}

    def add(name: str, x: Tensor, _: Tensor) -> None:
        flat = x.flatten(0, -2).float()
        size = flat.abs()
        kept = flat[:: -(-len(flat) // _KEPT)].clone()
        if name not in found:
            found[name] = Inputs(size.amax(dim=0), size.sum(dim=0), len(flat), [kept])
            return
        inputs = found[name]
        inputs.largest = torch.maximum(inputs.largest, size.amax(dim=0))
        inputs.total = inputs.total + size.sum(dim=0)
        inputs.tokens += len(flat)
        inputs.kept.append(kept)

    with watching(probe.network, names, add):
        for batch in probe.batches:
            probe.actions(probe.network, rows=batch.rows)
            report(len(batch.rows))
    return found


def smoothquant(network: PI0Network, inputs: Mapping[str, Inputs]) -> Smoothing:
    """Share the range between activations and weights: s = max|x|^0.5 / max|w|^0.5 (Eq. 4), behind norms alone.

    Args:
        network: in full precision.
        inputs: of the takers of `norm_seams`, as `observe` gives them.
    """
    chosen = []
    for seam in norm_seams(network):
        (taker,) = seam.takers
        largest = layers(network)[taker].weight.abs().amax(dim=0)
        scale = inputs[taker].largest ** _ALPHA / largest.clamp_min(_TINY) ** (1 - _ALPHA)
        chosen.append((seam, _centred(scale)))
    return moved(network, chosen)


def awq(
    network: PI0Network, config: PI0Config, inputs: Mapping[str, Inputs], report: Callable[[int], None]
) -> Smoothing:
    """Protect the channels that carry most: s = mean|x|^a, with the a in 0, 0.05, ..., 1 that errs least in 4 bits.

    The error is that of the takers' outputs on the kept inputs, each over the square of its output, with the 4-bit
    weights that nested codes hold, unlike the paper's groups with zero points; activations stay exact.

    Args:
        network: in full precision.
        config: of the network.
        inputs: of the takers of `seams`, as `observe` gives them.
        report: called with the number of seams done.
    """
    linears = layers(network)
    chosen = []
    for seam in seams(network, config):
        mean = seam.gathered({name: inputs[name].total / inputs[name].tokens for name in seam.takers})
        kept = {name: torch.cat(inputs[name].kept) for name in seam.takers}
        scales = [_centred(mean**exponent) for exponent in _EXPONENTS]
        errors = [
            sum(_error(linears[name].weight, scale[seam.takers[name]], x) for name, x in kept.items())
            for scale in scales
        ]
        chosen.append((seam, scales[errors.index(min(errors))]))
        report(1)
    return moved(network, chosen)


def _centred(scale: Tensor) -> Tensor:
    """Lift what is too small, and put 1 in the middle between the smallest and the largest, as AWQ's code does."""
    scale = scale.clamp_min(max(_SMALLEST * float(scale.max()), _TINY))
    return scale / (scale.max().sqrt() * scale.min().sqrt())


def _error(weight: Tensor, scale: Tensor, x: Tensor) -> float:
    """Give the squared error that 4-bit codes of w s make in w x for inputs [n, K], over the square of w x."""
    coded = quantize(weight * scale)
    got, exact = rotate(x / scale, coded.block) @ decode(coded, 1).T, x @ weight.T
    return float((got - exact).square().sum() / exact.square().sum().clamp_min(_TINY))


def moved(network: PI0Network, chosen: Iterable[tuple[Seam, Tensor]]) -> Smoothing:
    """Spread the scales [C] of seams over the modules that they touch."""
    scales: dict[str, Tensor] = {}
    divisors: dict[str, Tensor] = {}
    for seam, scale in chosen:
        scales |= {name: scale[channels] for name, channels in seam.takers.items()}
        for name in seam.makers:
            divisor = torch.ones(len(network.get_parameter(f"{name}.weight"))).to(scale)
            divisor[-len(scale) :] = scale
            divisors[name] = divisor
    return Smoothing(scales, divisors)


def fold(network: PI0Network, smoothing: Smoothing) -> PI0Network:
    """Give the network with scales and divisors in its weights, biases and gains; its actions are the same."""
    replaced = {}
    for name in smoothing.scales.keys() | smoothing.divisors.keys():
        module = copy.deepcopy(network.get_submodule(name))
        for parameter in module.parameters():
            if name in smoothing.divisors:
                parameter.data = parameter.data / smoothing.divisors[name].reshape(-1, *[1] * (parameter.ndim - 1))
            if name in smoothing.scales and parameter.ndim == 2:
                parameter.data = parameter.data * smoothing.scales[name]
        replaced[name] = module
    return student(network, replaced)


def beside_weights(folded: PI0Network, smoothing: Smoothing) -> dict[str, Tensor]:
    """Give what a bundle must hold of a folded network beside its codes, by the names of parameters.

    These are the norms' gains and biases and the linears' biases that were divided, as a checkpoint has them: gains of
    an RMSNorm less one, so near -1 at times that 16 bits are too few for them.
    """
    return {
        name: parameter.data - 1
        if isinstance(folded.get_submodule(name.rsplit(".", 1)[0]), RMSNorm)
        else parameter.data
        for name, parameter in folded.named_parameters()
        if name.rsplit(".", 1)[0] in smoothing.divisors and not is_quantized_weight(name)
    }
