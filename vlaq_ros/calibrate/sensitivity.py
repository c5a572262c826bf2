"""QVLA (arXiv 2602.03782): what the action loses when one output channel of one linear layer gets fewer bits.

s(l, c, b) is the squared error of the normalised action chunk, summed over its steps and dimensions and averaged over
observations, with channel c of layer l rounded to b bits and all else at full precision (Eq. 4). A forward pass for
every channel and width would take days, so a proxy gives all of them and true passes replace those that matter most.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from vlaq_ros.calibrate.exact import exact
from vlaq_ros.calibrate.noise import noise
from vlaq_ros.calibrate.probe import Batch, Probe, layers, watching
from vlaq_ros.calibrate.storage import WIDTHS


def jacobian(
    probe: Probe,
    *,
    probes: int = 8,
    seed: int = 0,
    lost: Callable[[Tensor], Tensor] = noise,
    report: Callable[[int], None],
) -> dict[str, Tensor]:
    """Estimate every sensitivity from the Jacobian of the actions (Eq. 6): the error to first order in the rounding.

    With D the rounding error of row c and J the Jacobian of an observation's actions with respect to that row, the
    error is |J D|^2. Hutchinson's estimator has its mean without ever forming J: E (v . J D)^2 over v ~ N(0, I), and
    v . J is one backward pass for all layers, denoising steps and tokens together.

    The appendix multiplies the Jacobian's norm by the variance of the noise, as if tokens erred independently. They
    share the row's one error D and look alike, so their effects add up. Against true passes over the same 4 frames of
    demonstrations on models/tabletop_pi0, 3 random channels of each of 42 layers (Spearman with 95 % interval, and the
    median of proxy over truth):

        4 bits                              rank correlation         scale
        this                                0.994 [0.991, 0.996]     0.93
        the same, token by token            0.893 [0.842, 0.928]     0.46
        `hessian.hessian`                  -0.04  [-0.22, 0.14]      none

    8 and 0 bits differ from that by less than 0.03, but for the Hessian's -0.15 and -0.12. The true error of the
    chunk's first step and what adds up over the chunk (Eq. 5) agree to 0.962 [0.943, 0.975].

    Memory: the graph of one batch for autograd, and the outputs of its quantized layers once more for every width.

    Args:
        probe: the network and its observations.
        probes: v's per observation; an estimate is off by about sqrt(2 / (probes * observations)) of itself.
        seed: of the v's.
        lost: what weights [O, K] lose at every width, [W, O, K].
        report: called with the number of observations done.

    Returns:
        Layer -> [W, O] float64, in squared normalised actions; by default W = 4, the widths of `storage.WIDTHS`.
    """
    sums: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(seed)
    for batch in probe.batches:
        for name, squares in _of_batch(probe, batch, probes, generator, lost).items():
            sums[name] = sums.get(name, 0) + squares
        report(len(batch.rows))
    return {name: total / (probes * len(probe.teacher)) for name, total in sums.items()}


def _of_batch(
    probe: Probe, batch: Batch, probes: int, generator: torch.Generator, lost: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Give the sum of (v . J D)^2 over observations and v's, layer by layer: [W, O]; a batch's graph dies with it."""
    actions, inputs, outputs = recorded(probe, batch)
    shifts = {}  # what rounding does to the outputs: [B, tokens, O] for every width
    for name, linear in layers(probe.network).items():
        x = _by_observation(inputs.pop(name), len(actions))
        shifts[name] = [x @ each.T for each in lost(linear.weight)]
    sums: dict[str, Tensor] = {}
    for found in gradients(actions, outputs, probes, generator):
        for name, calls in found.items():
            g = _by_observation(calls, len(actions))
            moved = torch.stack([(g * shift).sum(dim=1) for shift in shifts[name]])  # v . J D: [W, B, O]
            sums[name] = sums.get(name, 0) + moved.double().square().sum(dim=1)
    return sums


def recorded(probe: Probe, batch: Batch) -> tuple[Tensor, dict[str, list[Tensor]], dict[str, list[Tensor]]]:
    """Give the actions [B, T, A] for autograd, and layer by layer what went in and came out of every call."""
    inputs: dict[str, list[Tensor]] = defaultdict(list)
    outputs: dict[str, list[Tensor]] = defaultdict(list)

    def keep(name: str, x: Tensor, y: Tensor) -> None:
        inputs[name].append(x.detach())
        outputs[name].append(y.requires_grad_())  # nothing before the first layer does

    with watching(probe.network, layers(probe.network), keep):
        actions = probe.differentiable(probe.network, batch)
    return actions, inputs, outputs


def gradients(
    actions: Tensor, outputs: Mapping[str, list[Tensor]], probes: int, generator: torch.Generator
) -> Iterator[dict[str, list[Tensor]]]:
    """Give v . J, for so many v ~ N(0, I), with respect to what came out of every call, as `recorded` gives them."""
    calls = [call for of_layer in outputs.values() for call in of_layer]
    for _ in range(probes):
        v = torch.randn(actions.shape, generator=generator).to(actions)
        found = iter(torch.autograd.grad(actions, calls, v, True))
        yield {name: [next(found) for _ in of_layer] for name, of_layer in outputs.items()}


def _by_observation(calls: list[Tensor], observations: int) -> Tensor:
    """Put the tokens of all calls of a layer, and of all cameras, behind their observation: [B, tokens, features]."""
    return torch.cat([call.reshape(observations, -1, call.shape[-1]) for call in calls], dim=1)


def at_4_bits(sensitivity: Mapping[str, Tensor]) -> tuple[list[tuple[str, int]], Tensor]:
    """Put the channels of all layers side by side: layer and channel of each of N, and their scores [N] at 4 bits."""
    places = [(name, channel) for name, each in sensitivity.items() for channel in range(each.shape[1])]
    return places, torch.cat([each[WIDTHS.index(4)] for each in sensitivity.values()])


def refine(
    sensitivity: Mapping[str, Tensor],
    probe: Probe,
    *,
    channels: int,
    rows: Sequence[int] | None = None,
    report: Callable[[int], None],
) -> dict[str, Tensor]:
    """Replace the sensitivities of the most sensitive channels by true ones, at 8 and at 4 bits.

    Args:
        sensitivity: layer -> [4, O], as `jacobian` gives it; channels are ranked over all layers by their 4 bits.
        probe: the network and its observations.
        channels: how many, of all that there are; each costs two passes.
        rows: the observations that every pass takes; None for all.
        report: called with the number of passes done.

    Returns:
        Layer -> [4, O]; other channels and widths are as they were.
    """
    refined = {name: each.clone() for name, each in sensitivity.items()}
    places, scores = at_4_bits(sensitivity)
    chosen: dict[str, list[int]] = defaultdict(list)
    for index in scores.topk(channels).indices.tolist():
        name, channel = places[index]
        chosen[name].append(channel)
    for name, of_layer in chosen.items():
        for bits in (8, 4):
            refined[name][WIDTHS.index(bits), of_layer] = exact(probe, name, of_layer, bits, rows)
            report(len(of_layer))
    return refined
