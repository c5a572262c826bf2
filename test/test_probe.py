"""What the calibration methods look through: the same actions as the engine's, with gradients and with eyes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vlaq_ros.calibrate import probe as probe_module
from vlaq_ros.calibrate.buffer import Buffer
from vlaq_ros.calibrate.probe import BATCH, Probe, layers, watching
from vlaq_ros.datatypes import Observation
from vlaq_ros.policy import pi0
from vlaq_ros.policy.checkpoint import Checkpoint
from vlaq_ros.policy.engine import FULL, Engine
from vlaq_ros.policy.transforms import normalize


def buffer_of(checkpoint: Checkpoint, count: int) -> Buffer:
    random, spec = np.random.default_rng(0), checkpoint.spec
    size = (spec.image_size_px, spec.image_size_px, 3)
    observations = tuple(
        Observation(
            k,
            {camera: random.integers(0, 256, size, dtype=np.uint8) for camera in spec.cameras},
            spec.joint_names,
            spec.state_mean + spec.state_std * random.standard_normal(len(spec.joint_names)),
            spec.instructions[k % len(spec.instructions)],
        )
        for k in range(count)
    )
    shape = (count, checkpoint.config.chunk_size, checkpoint.config.max_action_dim)
    return Buffer(observations, random.standard_normal(shape, dtype=np.float32), ("",) * count, "random")


@pytest.fixture(scope="module")
def probe(tiny_checkpoint: Path) -> Probe:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    return Probe.open(checkpoint, buffer_of(checkpoint, BATCH + 3))


def test_the_teacher_is_the_engine_in_full(probe: Probe, tiny_checkpoint: Path) -> None:
    engine = Engine.load(tiny_checkpoint, full=True, dtype=torch.float32)
    chunks = engine.infer_batch(probe.buffer.observations, FULL, probe.buffer.noise)
    expected = np.stack([normalize(chunk.actions, probe.spec.action_mean, probe.spec.action_std) for chunk in chunks])
    torch.testing.assert_close(probe.teacher.double(), torch.tensor(expected), rtol=0, atol=2e-6)
    assert probe.nmse(probe.teacher) == 0
    assert probe.nmse(2 * probe.teacher) == pytest.approx(1)


def test_rows_are_those_that_were_asked_for(probe: Probe) -> None:
    rows = [BATCH + 1, 0, 5]
    torch.testing.assert_close(probe.actions(probe.network, rows=rows), probe.teacher[rows], rtol=0, atol=2e-6)
    assert not torch.equal(probe.actions(probe.network, steps=1), probe.teacher)


def test_what_is_differentiated_is_what_is_run(probe: Probe) -> None:
    for batch in probe.batches:
        actions = probe.differentiable(probe.network, batch)
        torch.testing.assert_close(actions, probe.teacher[list(batch.rows)], rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["vision.layers.0.qkv", "language.layers.0.down", "expert.layers.1.qkv"])
def test_gradients_at_the_outputs_of_linears_are_those_of_finite_differences(probe: Probe, name: str) -> None:
    batch = probe.batches[1]
    outputs: list[Tensor] = []

    def keep(_: str, __: Tensor, y: Tensor) -> None:
        y.requires_grad_()
        y.retain_grad()
        outputs.append(y)

    with watching(probe.network, [name], keep):
        probe.differentiable(probe.network, batch).square().sum().backward()
    bias = torch.zeros(outputs[0].shape[-1])
    bias[1] = 1e-2

    def shifted(sign: int) -> float:
        handle = probe.network.get_submodule(name).register_forward_hook(lambda _, __, y: y + sign * bias)
        try:
            with torch.no_grad():
                return float(probe.differentiable(probe.network, batch).square().sum())
        finally:
            handle.remove()

    gradient = sum(float(y.grad[..., 1].sum()) for y in outputs if y.grad is not None)
    assert gradient == pytest.approx((shifted(1) - shifted(-1)) / 2e-2, rel=2e-2, abs=1e-4)


def test_the_layers_are_those_of_a_bundle(probe: Probe) -> None:
    assert list(layers(probe.network)) == [
        name.removesuffix(".weight") for name in pi0.shapes(probe.config) if pi0.is_quantized_weight(name)
    ]


def test_watching_ends(probe: Probe) -> None:
    told: list[str] = []
    with watching(probe.network, ["expert.layers.0.o"], lambda name, x, y: told.append(name)):
        probe.actions(probe.network, rows=[0])
    assert told == ["expert.layers.0.o"] * probe.steps
    probe.actions(probe.network, rows=[0])
    assert len(told) == probe.steps


def test_every_attention_is_seen_and_nothing_changes(probe: Probe) -> None:
    seen: list[tuple[str, int, Tensor | None]] = []

    def look(tower: str, layer: int, query: Tensor, keys: Tensor, mask: Tensor | None) -> None:
        assert query.shape[1] == (mask.shape[0] if mask is not None else query.shape[1])
        assert keys.shape[0] == query.shape[0]
        seen.append((tower, layer, mask))

    actions = probe.actions(probe.network, rows=[2, 7], look=look)
    torch.testing.assert_close(actions, probe.teacher[[2, 7]], rtol=0, atol=2e-6)
    depth = len(probe.network.expert.layers)
    language = [("language", layer) for layer in range(depth - 1)]  # the last one attends to nothing
    assert [entry[:2] for entry in seen] == language + probe.steps * [("expert", layer) for layer in range(depth)]
    masks = [mask for tower, _, mask in seen if tower == "expert"]
    assert all(mask is not None and not mask[0, -1] for mask in masks[:depth])  # the state sees no action
    assert masks[depth:] == [None] * (len(masks) - depth)


def test_large_activations_make_small_batches(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    buffer = buffer_of(checkpoint, 4)
    whole = Probe.open(checkpoint, buffer)
    monkeypatch.setattr(probe_module, "_BYTES", 1)
    single = Probe.open(checkpoint, buffer)
    assert sorted(batch.rows for batch in single.batches) == [(0,), (1,), (2,), (3,)]
    torch.testing.assert_close(single.teacher, whole.teacher, rtol=1e-4, atol=1e-5)
