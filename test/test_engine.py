"""The engine: observations in, chunks in SI units out, at every precision over one set of bytes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PI0ForConditionalGeneration

from vlaq_ros.datatypes import ActionSpace, FloatArray, Observation
from vlaq_ros.errors import (
    CameraNamesError,
    JointNamesError,
    ModelNotFoundError,
    UnknownInstructionError,
    UnknownPrecisionError,
)
from vlaq_ros.policy.bundle import Bundle
from vlaq_ros.policy.engine import Engine
from vlaq_ros.policy.manifest import Manifest
from vlaq_ros.policy.transforms import pixel_values

STAMP_NS = 12_000_000_005


@pytest.fixture(scope="module")
def engine(tiny_bundle: Path) -> Engine:
    return Engine.load(tiny_bundle)


@pytest.fixture(scope="module")
def full(tiny_bundle: Path) -> Engine:
    return Engine.load(tiny_bundle, full=True)


def observation(manifest: Manifest, seed: int) -> Observation:
    random = np.random.default_rng(seed)
    return Observation(
        stamp_ns=STAMP_NS + seed,
        images={name: random.integers(0, 256, (96, 96, 3), dtype=np.uint8) for name in manifest.cameras},
        joint_names=manifest.joint_names,
        joint_positions=manifest.state_mean + manifest.state_std * random.normal(size=8),
        instruction=manifest.instructions[seed % len(manifest.instructions)],
    )


def noise(*batch: int) -> FloatArray:
    return np.random.default_rng(0).normal(size=(*batch, 16, 8))


def normalised(engine: Engine, actions: FloatArray) -> FloatArray:
    return (actions - engine.manifest.action_mean) / engine.manifest.action_std


def test_a_chunk_is_stamped_and_in_the_units_of_the_manifest(engine: Engine) -> None:
    chunk = engine.infer(observation(engine.manifest, 1), "fine", noise())
    assert chunk.stamp_ns == STAMP_NS + 1
    assert chunk.step_s == 0.05
    assert chunk.space is ActionSpace.JOINT
    assert chunk.actions.shape == (16, 8)
    assert chunk.actions.dtype == np.float64
    spread = normalised(engine, chunk.actions).std()
    assert 0.2 < spread < 5


def test_full_is_what_transformers_computes(tiny_bundle: Path, full: Engine) -> None:
    manifest, seen = full.manifest, observation(full.manifest, 2)
    ids = Bundle.load(tiny_bundle).prompts[seen.instruction][None]
    state = (seen.joint_positions - manifest.state_mean) / manifest.state_std
    expected = PI0ForConditionalGeneration.from_pretrained(tiny_bundle).sample_actions(
        state=torch.tensor(state, dtype=torch.float32)[None],
        input_ids=ids,
        pixel_values=torch.stack([pixel_values(seen.images[name], 96) for name in ("front", "wrist")])[None],
        noise=torch.tensor(noise(), dtype=torch.float32)[None],
        attention_mask=torch.ones_like(ids),
        pixel_attention_mask=torch.ones(1, 2, dtype=torch.bool),
        num_steps=8,
    )
    chunk = full.infer(seen, "full", noise())
    np.testing.assert_allclose(normalised(full, chunk.actions), expected[0].numpy(), atol=1e-4)


def test_a_batch_gives_what_its_observations_give_alone(engine: Engine, full: Engine) -> None:
    seen = [observation(engine.manifest, seed) for seed in range(5)]
    start = noise(5)
    for held in (engine, full):
        for precision in held.precisions:
            together = held.infer_batch(seen, precision, start)
            for one, begin, chunk in zip(seen, start, together, strict=True):
                alone = held.infer(one, precision, begin)
                assert chunk.stamp_ns == one.stamp_ns == alone.stamp_ns
                np.testing.assert_allclose(normalised(held, chunk.actions), normalised(held, alone.actions), atol=1e-4)


def test_the_same_noise_gives_the_same_answer_and_other_noise_another(engine: Engine) -> None:
    seen = observation(engine.manifest, 0)
    first, again = (engine.infer(seen, "coarse", noise()).actions for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.allclose(engine.infer(seen, "coarse", -noise()).actions, first)


def test_finer_is_nearer_to_full(engine: Engine, full: Engine) -> None:
    seen = [observation(engine.manifest, seed) for seed in range(6)]
    actions = {
        precision: np.stack([normalised(held, chunk.actions) for chunk in held.infer_batch(seen, precision, noise(6))])
        for held in (engine, full)
        for precision in held.precisions
    }
    fine, coarse = (np.abs(actions[name] - actions["full"]).mean() for name in engine.precisions)
    assert 0 < fine < coarse / 4
    assert coarse < 0.3 * actions["full"].std()


def test_threads_may_use_different_precisions_at_once(engine: Engine) -> None:
    seen = observation(engine.manifest, 3)
    alone = {name: engine.infer(seen, name, noise()).actions for name in engine.precisions}
    with ThreadPoolExecutor(2) as pool:
        asked = [name for _ in range(4) for name in engine.precisions]
        for name, chunk in zip(asked, pool.map(lambda name: engine.infer(seen, name, noise()), asked), strict=True):
            assert np.array_equal(chunk.actions, alone[name])


def test_joints_and_cameras_are_found_by_name(engine: Engine) -> None:
    seen = observation(engine.manifest, 4)
    order = np.random.default_rng(1).permutation(8)
    shuffled = replace(
        seen,
        images={"overhead": np.zeros((4, 4, 3), np.uint8), **dict(reversed(seen.images.items()))},
        joint_names=("lift", *(seen.joint_names[i] for i in order)),
        joint_positions=np.concatenate([[9.0], seen.joint_positions[order]]),
    )
    expected = engine.infer(seen, "fine", noise()).actions
    assert np.array_equal(engine.infer(shuffled, "fine", noise()).actions, expected)


def test_precisions_are_named_finest_first(engine: Engine, full: Engine) -> None:
    assert engine.precisions == ("fine", "coarse")
    assert full.precisions == ("full",)


def test_both_precisions_hold_the_bytes_of_one(tiny_bundle: Path, engine: Engine, tmp_path: Path) -> None:
    width, outputs = 32, {"attention": 32 + 16 + 16 + 32, "mlp": 64 + 64 + 32}
    vision = 2 * (4 * width * width + 2 * width * 64), 2 * (4 * 32 + 64 + 32)
    layer = width * sum((32, 16, 16, 32)) + 3 * width * 64, sum(outputs.values())
    language = layer[0] + width * 32, layer[1] + 32  # of its second layer only k and v act
    weights = vision[0] + language[0] + 2 * layer[0]
    scales = vision[1] + language[1] + 2 * layer[1]
    assert engine.bytes_over_bf16["linears"] == (weights + 4 * scales) / (2 * weights)
    assert engine.bytes_over_bf16["linears"] < engine.bytes_over_bf16["all"]

    alone = Engine.load(tiny_bundle_with(tiny_bundle, tmp_path, "fine"))
    assert alone.precisions == ("fine",)
    assert alone.bytes_over_bf16 == engine.bytes_over_bf16


def tiny_bundle_with(bundle: Path, directory: Path, precision: str) -> Path:
    for file in bundle.iterdir():
        (directory / file.name).symlink_to(file)
    manifest = Manifest.load(bundle)
    (directory / Manifest.FILE).unlink()
    replace(manifest, precisions=tuple(plan for plan in manifest.precisions if plan.name == precision)).save(directory)
    return directory


def test_full_holds_twice_the_bytes_of_bf16(full: Engine) -> None:
    assert full.bytes_over_bf16["linears"] == 2.0


def test_warming_up_runs_every_precision(engine: Engine, full: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    for held in (engine, full):
        run: list[str] = []
        infer = held.infer
        monkeypatch.setattr(held, "infer", lambda *args, infer=infer, run=run: run.append(args[1]) or infer(*args))
        held.warm_up()
        assert tuple(run) == held.precisions


def test_what_the_policy_does_not_know_is_told(engine: Engine) -> None:
    seen = observation(engine.manifest, 0)
    with pytest.raises(UnknownPrecisionError) as precision:
        engine.infer(seen, "full", noise())
    assert str(precision.value) == "unknown precision 'full'; this policy has: fine, coarse"
    with pytest.raises(UnknownInstructionError) as instruction:
        engine.infer(replace(seen, instruction="fold the towel"), "fine", noise())
    assert str(instruction.value) == (
        "no task knows the instruction 'fold the towel'; this policy was trained on: pick up the red cube; pick up the "
        "green cube; pick up the blue cube; put the red cube in the bin; put the green cube in the bin; put the blue "
        "cube in the bin"
    )
    with pytest.raises(CameraNamesError) as camera:
        engine.infer(replace(seen, images={"front": seen.images["front"]}), "fine", noise())
    assert str(camera.value) == (
        "the observation has no camera named wrist; it has: front; name the policy's cameras in the robot's YAML file"
    )
    with pytest.raises(JointNamesError) as joints:
        engine.infer(replace(seen, joint_names=("lift", *seen.joint_names[1:])), "fine", noise())
    assert str(joints.value) == (
        "the observation has no joint named panda_joint1; it has: lift, panda_joint2, panda_joint3, panda_joint4, "
        "panda_joint5, panda_joint6, panda_joint7, panda_finger_joint1; correct the robot's YAML file"
    )
    with pytest.raises(ValueError, match=r"noise has shape \(1, 20, 8\), expected \(1, 16, 8\)"):
        engine.infer(seen, "fine", np.zeros((20, 8)))


def test_a_missing_bundle_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        Engine.load(tmp_path)
