"""How much every token of every layer matters to the actions: what rounding with feedback weighs its errors by.

GPTQ (arXiv 2210.17323) keeps a layer's output near for all tokens alike. But most of them hardly reach the actions: in
layers of models/tabletop_pi0, the median of the squared gradients is 0.2 to 5 % of their mean. GuidedQuant (arXiv
2505.07004) weighs a layer's errors by the squared gradients of the loss, averaged over groups of channels. Here the
actions take the place of the loss, and all channels are one group.

The weight is the gradient's norm, not its square, with which too few tokens count for the observations at hand. Action
error of `channelwise` at 0.305 on models/tabletop_pi0, of `fine` / `coarse`, with all tokens alike, with the norm, with
its square; 128 observations of its own rollouts, those of other rollouts, and of the way to the socket in others again:

                        alike               norm                square
    calibrated on       7.4e-4 / 4.0e-3     4.2e-4 / 2.8e-3     4.9e-4 / 2.0e-3
    64 others           7.6e-4 / 5.9e-3     6.8e-4 / 3.3e-3     1.2e-3 / 3.1e-3
    96 at the socket    2.4e-3 / 5.9e-3     3.7e-4 / 1.6e-3     3.8e-4 / 1.3e-3
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor

from vlaq_ros.calibrate.probe import Batch, Probe
from vlaq_ros.calibrate.sensitivity import gradients, recorded


def token_weights(probe: Probe, *, probes: int = 4, report: Callable[[int], None]) -> dict[str, Tensor]:
    """Estimate the norm of the actions' Jacobian with respect to every token that leaves a layer.

    It is the root of the mean of |v . J|^2 over v ~ N(0, I), over all of the token's channels. Memory: the graph of one
    batch.

    Args:
        probe: the network and its observations.
        probes: v's per observation.
        report: called with the number of observations done.

    Returns:
        Layer -> [n], all tokens of all calls in the order in which `Probe.actions` makes them.
    """
    generator = torch.Generator().manual_seed(0)
    weights: dict[str, list[Tensor]] = defaultdict(list)
    for batch in probe.batches:
        for name, squares in _of_batch(probe, batch, probes, generator).items():
            weights[name].append((squares / probes).sqrt())
        report(len(batch.rows))
    return {name: torch.cat(parts) for name, parts in weights.items()}


def _of_batch(probe: Probe, batch: Batch, probes: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Give the sum of |v . J|^2 over the v's for all tokens of a layer's calls; a batch's graph dies with it."""
    actions, _, outputs = recorded(probe, batch)
    sums: dict[str, Tensor] = {}
    for found in gradients(actions, outputs, probes, generator):
        for name, calls in found.items():
            sums[name] = sums.get(name, 0) + torch.cat([call.square().sum(dim=-1).flatten() for call in calls])
    return sums
