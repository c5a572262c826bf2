"""Second moments of what enters quantized layers, as rounding with feedback (GPTQ, arXiv 2210.17323) needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from vlaq_ros.calibrate.probe import Probe, layers, watching
from vlaq_ros.quant.hadamard import block_size, rotate

_BYTES = 1 << 30  # that the moments of one pass over the observations may take
_LARGEST_DOUBLE = 4096  # features; wider moments would take gigabytes in float64


def moments(
    probe: Probe, names: Iterable[str], report: Callable[[int], None], weights: Mapping[str, Tensor] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Measure layer by layer, with as many passes over the observations as keep the memory within a bound.

    A pass measures as many layers as fit into 1 GiB, at least one; tokens of all denoising steps count.

    Args:
        probe: the network and its observations.
        names: of quantized linears.
        report: called with the number of layers done.
        weights: of the tokens of these layers, as `guidance.token_weights` gives them; by default they count alike.

    Yields:
        A layer's name and [K', K'], the mean of x' x'^T over its rotated inputs: what `quant.rounding.feedback` takes.
        It is summed up in float64 up to K = 4096 and in float32 beyond.
    """
    linears = layers(probe.network)
    for group in _groups({name: linears[name].in_features for name in names}):
        means = _means(probe, group, weights)
        for name in group:
            block = block_size(len(means[name]))
            yield name, rotate(rotate(means.pop(name), block).T, block)
            report(1)


def _means(probe: Probe, names: list[str], weights: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Give the weighted mean of x x^T over all tokens x of every layer: [K, K]."""
    sums: dict[str, Tensor] = {}
    tokens = dict.fromkeys(names, 0)

    def add(name: str, x: Tensor, _: Tensor) -> None:
        flat = x.flatten(0, -2).float()
        if name not in sums:
            sums[name] = torch.zeros(flat.shape[1], flat.shape[1], dtype=_dtype(flat.shape[1]), device=flat.device)
        first, tokens[name] = tokens[name], tokens[name] + len(flat)
        weighted = flat if weights is None else flat * weights[name][first : tokens[name], None]
        sums[name] += weighted.T @ flat

    with watching(probe.network, names, add):
        probe.actions(probe.network)
    totals = tokens if weights is None else {name: float(weights[name].double().sum()) for name in names}
    return {name: sums.pop(name) / totals[name] for name in names}


def _groups(features: dict[str, int]) -> Iterator[list[str]]:
    """Cut layers with these numbers of features into runs whose moments take at most `_BYTES`, or one layer each."""
    group: list[str] = []
    held = 0
    for name, K in features.items():
        size = K**2 * _dtype(K).itemsize
        if group and held + size > _BYTES:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    if group:
        yield group


def _dtype(features: int) -> torch.dtype:
    return torch.float64 if features <= _LARGEST_DOUBLE else torch.float32
