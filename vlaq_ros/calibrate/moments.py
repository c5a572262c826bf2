"""Second moments of what enters quantized layers, as rounding with feedback (GPTQ, arXiv 2210.17323) needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from vlaq_ros.calibrate.probe import Probe, layers, watching
from vlaq_ros.quant.hadamard import block_size, rotate

_BYTES = 1 << 30  # that the moments of one pass over the observations may take
_LARGEST_DOUBLE = 4096  # features; wider moments would take gigabytes in float64


def moments(probe: Probe, names: Iterable[str], report: Callable[[int], None]) -> Iterator[tuple[str, Tensor]]:
    """Measure layer by layer, with as many passes over the observations as keep the memory within a bound.

    A pass measures as many layers as fit into 1 GiB, at least one, and every token of every denoising step counts.

    Args:
        probe: the network and its observations.
        names: of quantized linears.
        report: called with the number of layers done.

    Yields:
        A layer's name and [K', K'], the mean of x' x'^T over its rotated inputs: what `quant.rounding.feedback` takes.
        It is summed up in float64 up to K = 4096 and in float32 beyond.
    """
    linears = layers(probe.network)
    for group in _groups({name: linears[name].in_features for name in names}):
        means = _means(probe, group)
        for name in group:
            block = block_size(len(means[name]))
            yield name, rotate(rotate(means.pop(name), block).T, block)
            report(1)


def _means(probe: Probe, names: list[str]) -> dict[str, Tensor]:
    """Give the mean of x x^T over all tokens x of every layer: [K, K]."""
    sums: dict[str, Tensor] = {}
    tokens = dict.fromkeys(names, 0)

    def add(name: str, x: Tensor, _: Tensor) -> None:
        flat = x.flatten(0, -2).float()
        if name not in sums:
            sums[name] = torch.zeros(flat.shape[1], flat.shape[1], dtype=_dtype(flat.shape[1]), device=flat.device)
        sums[name] += flat.T @ flat
        tokens[name] += len(flat)

    with watching(probe.network, names, add):
        probe.actions(probe.network)
    return {name: sums[name] / tokens[name] for name in names}


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
