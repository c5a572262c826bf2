"""The least time of a whole policy: the rooflines of its linear layers, one after the other."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from vlaq_ros.bench.machine import Machine, Roof
from vlaq_ros.policy import pi0
from vlaq_ros.policy.description import Description
from vlaq_ros.policy.manifest import Manifest


def quantized(policy: Description) -> dict[str, torch.Size]:
    """Give the shapes of the weights that a bundle holds as codes, by the names of their layers."""
    shapes = ((name.removesuffix(".weight"), shape) for name, shape in pi0.shapes(policy.config).items())
    return {name: shape for name, shape in shapes if pi0.is_quantized(name)}


def code_bits(manifest: Manifest, precision: int) -> dict[str, float]:
    """Give the mean width of the codes that a precision reads, by layer."""
    return {
        name: sum(group.rows * group.bits[precision] for group in layer.groups) / sum(g.rows for g in layer.groups)
        for name, layer in manifest.layers.items()
    }


def bound_s(
    policy: Description, bits: Mapping[str, float], *, kind: str, steps: int, machine: Machine, roof: Roof
) -> float:
    """Sum what each quantized layer takes at least; attention, norms and the small linears between come on top.

    Args:
        policy: its sizes and its first prompt.
        bits: that are read of a weight, by the layers' names.
        kind: of the products, as in `Roof`.
        steps: of the flow; the action expert runs in each.
        machine: whose smallest cache that holds all the weights they are read from, else its memory.
        roof: of that machine.
    """
    vision, _, _ = pi0.towers(policy.config)
    tokens = {
        "vision": len(policy.spec.cameras) * (vision.image_size // vision.patch_size) ** 2,
        "language": len(next(iter(policy.prompts.values()))),
        "expert": policy.config.chunk_size,
    }
    runs = {"vision": 1, "language": 1, "expert": steps}
    weights = {name: shape.numel() for name, shape in quantized(policy).items()}
    total = sum(weights[name] * bits[name] / 8 for name in weights)
    level = next((name for name, size in machine.caches_bytes.items() if size >= total), "memory")
    return sum(
        runs[tower]
        * roof.bound_s(
            read_bytes=weights[name] * bits[name] / 8,
            operations=2 * tokens[tower] * weights[name],
            kind=kind,
            level=level,
        )
        for name in weights
        for tower in [name.partition(".")[0]]
    )
