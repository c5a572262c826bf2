"""Who gets 4 bits and who 2, against every other choice; and what rounding to them is."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from test_probe import buffer_of
from torch import Size, Tensor

from vlaq_ros.calibrate.probe import Probe, layers
from vlaq_ros.calibrate.steps import Steps
from vlaq_ros.calibrate.students import rounded
from vlaq_ros.policy.checkpoint import Checkpoint
from vlaq_ros.study import mixing
from vlaq_ros.study.variants import Mixed, Spread

SHAPES = {"a": Size((3, 8)), "b": Size((2, 16)), "c": Size((2, 8))}


def gains(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape[0], generator=generator) for name, shape in SHAPES.items()}


def kept(gain: dict[str, Tensor], bits: dict[str, Tensor]) -> float:
    return sum(float(gain[name][bits[name] == mixing.WIDE].sum()) for name in SHAPES)


def wide_share(bits: dict[str, Tensor]) -> float:
    wide = sum(int((bits[name] == mixing.WIDE).sum()) * shape[1] for name, shape in SHAPES.items())
    return wide / sum(shape.numel() for shape in SHAPES.values())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.3, 0.5])
def test_layers_are_the_best_choice_of_all(seed: int, share: float) -> None:
    gain = gains(seed)
    chosen = mixing.by_layer(gain, SHAPES, share)
    assert all(len(set(bits.tolist())) == 1 for bits in chosen.values())
    assert wide_share(chosen) <= share
    every = [
        {name: torch.full(shape[:1], bits) for (name, shape), bits in zip(SHAPES.items(), choice, strict=True)}
        for choice in product((mixing.NARROW, mixing.WIDE), repeat=len(SHAPES))
    ]
    best = max(kept(gain, bits) for bits in every if wide_share(bits) <= share)
    assert kept(gain, chosen) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(5))
def test_channels_are_the_dearest_per_weight(seed: int) -> None:
    gain = gains(seed)
    chosen = mixing.by_channel(gain, SHAPES, 0.5)
    assert 0.5 - 16 / 72 < wide_share(chosen) <= 0.5
    per_weight = {bits: [] for bits in (mixing.NARROW, mixing.WIDE)}
    for name, shape in SHAPES.items():
        for value, bits in zip(gain[name].tolist(), chosen[name].tolist(), strict=True):
            per_weight[bits].append(value / shape[1])
    assert min(per_weight[mixing.WIDE]) >= max(per_weight[mixing.NARROW])


def test_rows_are_rounded_to_their_widths() -> None:
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    bits = torch.tensor([2, 4, 4, 2])
    found = mixing.mixed(weight, bits)
    for row, width in enumerate(bits.tolist()):
        torch.testing.assert_close(found[row], rounded(weight[row : row + 1], width)[0])


@pytest.mark.parametrize("spread", Spread)
def test_a_network_is_spread_once_and_keeps_its_mean(spread: Spread, tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    probe, steps = Probe.open(checkpoint, buffer_of(checkpoint, 2)), Steps(tmp_path)
    stages: list[str] = []

    def stage(name: str, units: int) -> Callable[[int], None]:
        stages.append(name)
        return lambda done: None

    first = mixing.widths(probe, Mixed(spread, 3.0), steps, stage)
    shapes = {name: linear.weight.shape for name, linear in layers(probe.network).items()}
    assert {name: bits.shape for name, bits in first.items()} == {name: shape[:1] for name, shape in shapes.items()}
    total = sum(shape.numel() for shape in shapes.values())
    mean = sum(int(first[name].sum()) * shape[1] for name, shape in shapes.items()) / total
    assert mean <= 3.0
    assert mean > (2.9 if spread is not Spread.LAYERWISE else 2.5)
    assert stages == ([] if spread is Spread.RANDOM else ["sensitivities: 2 and 4 bits"])
    again = mixing.widths(probe, Mixed(spread, 3.0), steps, stage)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert len(stages) <= 1
