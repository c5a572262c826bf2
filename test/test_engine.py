"""The engine: observations in, chunks in SI units out, at every precision over one set of bytes."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_memory import quantized
from test_pi0 import CPU, IMAGE_TOKEN_ID, assembled, by_transformers, random_policy, tiny_config
from torch import Tensor
from transformers import PI0ForConditionalGeneration

from vlaq_ros.datatypes import ActionSpace, FloatArray, Guide, MotionScales, Observation
from vlaq_ros.errors import (
    CameraNamesError,
    JointNamesError,
    ModelNotFoundError,
    UnknownInstructionError,
    UnknownPrecisionError,
)
from vlaq_ros.policy.cache import Cache
from vlaq_ros.policy.checkpoint import Checkpoint
from vlaq_ros.policy.description import Description
from vlaq_ros.policy.encoder import Encoder
from vlaq_ros.policy.engine import Engine, native_dtype
from vlaq_ros.policy.manifest import PrecisionPlan
from vlaq_ros.policy.memory import Meter
from vlaq_ros.policy.pi0 import PI0Network
from vlaq_ros.policy.sampler import Sampler
from vlaq_ros.policy.spec import PolicySpec
from vlaq_ros.policy.transforms import pixel_values
from vlaq_ros.quant.kernels import select
from vlaq_ros.quant.linear import view

STAMP_NS = 12_000_000_005


@pytest.fixture(scope="module")
def engine(tiny_bundle: Path) -> Engine:
    return Engine.load(tiny_bundle)


@pytest.fixture(scope="module")
def full(tiny_bundle: Path) -> Engine:
    return Engine.load(tiny_bundle, full=True)


def observation(spec: PolicySpec, seed: int) -> Observation:
    random = np.random.default_rng(seed)
    size = spec.image_size_px
    return Observation(
        stamp_ns=STAMP_NS + seed,
        images={name: random.integers(0, 256, (size, size, 3), dtype=np.uint8) for name in spec.cameras},
        joint_names=spec.joint_names,
        joint_positions=spec.state_mean + spec.state_std * random.normal(size=len(spec.joint_names)),
        instruction=spec.instructions[seed % len(spec.instructions)],
    )


def noise(*batch: int) -> FloatArray:
    return np.random.default_rng(0).normal(size=(*batch, 16, 8))


def normalised(engine: Engine, actions: FloatArray) -> FloatArray:
    return (actions - engine.spec.action_mean) / engine.spec.action_std


def test_a_chunk_is_stamped_and_in_the_units_of_the_spec(engine: Engine) -> None:
    chunk = engine.infer(observation(engine.spec, 1), "fine", noise())
    assert chunk.stamp_ns == STAMP_NS + 1
    assert chunk.step_s == 0.05
    assert chunk.space is ActionSpace.JOINT
    assert chunk.actions.shape == (16, 8)
    assert chunk.actions.dtype == np.float64
    spread = normalised(engine, chunk.actions).std()
    assert 0.2 < spread < 5


def test_full_is_what_transformers_computes(tiny_checkpoint: Path, full: Engine) -> None:
    spec, seen = full.spec, observation(full.spec, 2)
    ids = Checkpoint.open(tiny_checkpoint).prompts[seen.instruction][None]
    state = (seen.joint_positions - spec.state_mean) / spec.state_std
    expected = PI0ForConditionalGeneration.from_pretrained(tiny_checkpoint, dtype=torch.float32).sample_actions(
        state=torch.tensor(state, dtype=torch.float32)[None],
        input_ids=ids,
        pixel_values=torch.stack([pixel_values(seen.images[name], 96) for name in ("front", "wrist")])[None],
        noise=torch.tensor(noise(), dtype=torch.float32)[None],
        attention_mask=torch.ones_like(ids),
        pixel_attention_mask=torch.ones(1, 2, dtype=torch.bool),
        num_steps=8,
    )
    float32 = Engine.load(tiny_checkpoint, full=True, dtype=torch.float32)
    chunk = float32.infer(seen, "full", noise())
    np.testing.assert_allclose(normalised(full, chunk.actions), expected[0].numpy(), atol=1e-4)


def test_a_batch_gives_what_its_observations_give_alone(engine: Engine, full: Engine) -> None:
    seen = [observation(engine.spec, seed) for seed in range(5)]
    start = noise(5)
    for held in (engine, full):
        for precision in held.precisions:
            together = held.infer_batch(seen, precision, start)
            for one, begin, chunk in zip(seen, start, together, strict=True):
                alone = held.infer(one, precision, begin)
                assert chunk.stamp_ns == one.stamp_ns == alone.stamp_ns
                np.testing.assert_allclose(normalised(held, chunk.actions), normalised(held, alone.actions), atol=1e-4)


def test_the_same_noise_gives_the_same_answer_and_other_noise_another(engine: Engine) -> None:
    seen = observation(engine.spec, 0)
    first, again = (engine.infer(seen, "coarse", noise()).actions for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.allclose(engine.infer(seen, "coarse", -noise()).actions, first)


def test_finer_is_nearer_to_full(engine: Engine, full: Engine) -> None:
    seen = [observation(engine.spec, seed) for seed in range(6)]
    actions = {
        precision: np.stack([normalised(held, chunk.actions) for chunk in held.infer_batch(seen, precision, noise(6))])
        for held in (engine, full)
        for precision in held.precisions
    }
    fine, coarse = (np.abs(actions[name] - actions["full"]).mean() for name in engine.precisions)
    assert 0 < fine < coarse / 4
    assert coarse < 0.3 * actions["full"].std()


def test_threads_may_use_different_precisions_at_once(engine: Engine) -> None:
    seen = observation(engine.spec, 3)
    alone = {name: engine.infer(seen, name, noise()).actions for name in engine.precisions}
    with ThreadPoolExecutor(2) as pool:
        asked = [name for _ in range(4) for name in engine.precisions]
        for name, chunk in zip(asked, pool.map(lambda name: engine.infer(seen, name, noise()), asked), strict=True):
            assert np.array_equal(chunk.actions, alone[name])


def test_joints_and_cameras_are_found_by_name(engine: Engine) -> None:
    seen = observation(engine.spec, 4)
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
    assert engine.precisions == tuple(plan.name for plan in engine.plans) == ("fine", "coarse")
    assert full.plans == (PrecisionPlan("full", 16, full.spec.denoising_steps, 0.0),)
    assert engine.noise_shape == full.noise_shape == (16, 8)


def test_what_runs_and_what_it_holds_is_told(engine: Engine, full: Engine) -> None:
    assert engine.kernel == full.kernel == select.chosen(CPU)
    assert engine.bytes_over_bf16 == engine.memory.over_bf16
    wide = native_dtype(CPU) is torch.float32
    assert full.bytes_over_bf16["linears"] == (2.0 if wide else 1.0)


def test_warming_up_runs_every_precision(engine: Engine, full: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    for held in (engine, full):
        run: list[str] = []
        infer = held.infer
        monkeypatch.setattr(held, "infer", lambda *args, infer=infer, run=run: run.append(args[1]) or infer(*args))
        for precision in held.precisions:
            held.warm_up(precision)
        assert tuple(run) == held.precisions


def test_what_the_policy_does_not_know_is_told(engine: Engine) -> None:
    seen = observation(engine.spec, 0)
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


# A policy as public checkpoints are: a network wider than state and action, and prompts of different lengths.

PLANS = (PrecisionPlan("slow", 8, 6, 1.0), PrecisionPlan("fast", 8, 2, 0.0))


@pytest.fixture(scope="module")
def public() -> tuple[PI0ForConditionalGeneration, Description]:
    policy = random_policy(tiny_config(wide=12))
    spec = PolicySpec(
        family="pi0",
        cameras=("front",),
        image_size_px=24,
        joint_names=("shoulder", "elbow", "gripper"),
        action_space=ActionSpace.JOINT,
        step_s=0.02,
        denoising_steps=6,
        text_length=None,
        instructions=("wave", "wave with both hands"),
        state_mean=np.array([0.1, -0.2, 0.0]),
        state_std=np.array([0.5, 0.4, 2.0]),
        action_mean=np.array([0.0, 0.3, 0.01]),
        action_std=np.array([0.2, 0.1, 0.02]),
        motion=MotionScales(period_s=0.05, displacement_m=0.02, rotation_rad=0.05),
        fine_threshold=1.0,
    )
    image = [IMAGE_TOKEN_ID] * 9
    prompts = {"wave": torch.tensor([*image, 5, 6]), "wave with both hands": torch.tensor([*image, 5, 7, 8, 9, 6])}
    return policy, Description(Path(), policy.config, spec, prompts)


def started(public: tuple[PI0ForConditionalGeneration, Description], *, compiled: bool = False) -> Engine:
    policy, described = public
    network = assembled(policy)
    memory = Meter(CPU).read(policy.config, [network])
    networks = {plan.name: network for plan in PLANS}
    return Engine(described, networks, PLANS, select.chosen(CPU), memory, compiled=compiled)


def expected(
    public: tuple[PI0ForConditionalGeneration, Description], seen: Observation, noise: FloatArray, steps: int
) -> FloatArray:
    policy, described = public
    state = torch.zeros(1, 12)
    state[0, :3] = torch.tensor((seen.joint_positions - described.spec.state_mean) / described.spec.state_std)
    inputs: dict[str, Tensor] = {
        "pixel_values": pixel_values(seen.images["front"], 24)[None, None],
        "input_ids": described.prompts[seen.instruction][None],
        "state": state,
        "noise": torch.tensor(noise, dtype=torch.float32)[None],
    }
    actions = by_transformers(policy, inputs, steps)[0, :, :3].numpy()
    return actions * described.spec.action_std + described.spec.action_mean


def test_a_wider_network_and_prompts_of_different_lengths(
    public: tuple[PI0ForConditionalGeneration, Description],
) -> None:
    engine = started(public)
    assert engine.noise_shape == (6, 12)
    seen = [observation(engine.spec, seed) for seed in range(3)]  # two instructions
    start = np.random.default_rng(0).normal(size=(3, 6, 12))
    for plan in PLANS:  # each with its own number of steps
        chunks = engine.infer_batch(seen, plan.name, start)
        for one, begin, chunk in zip(seen, start, chunks, strict=True):
            wanted = expected(public, one, begin, plan.denoise_steps)
            assert chunk.actions.shape == (6, 3)
            np.testing.assert_allclose(chunk.actions, wanted, atol=1e-5)
            np.testing.assert_allclose(engine.infer(one, plan.name, begin).actions, wanted, atol=1e-5)


def guide(seed: int) -> Guide:
    random = np.random.default_rng(seed)
    weights = np.array([1.0, 0.8, 0.5, 0.2, 0.0, 0.0])
    return Guide(np.where(weights[:, None] > 0, random.normal(size=(6, 3)), np.nan), weights)


def test_a_guide_is_in_the_units_of_a_chunk_and_binds_its_columns_alone(
    public: tuple[PI0ForConditionalGeneration, Description],
) -> None:
    policy, described = public
    engine, spec = started(public), described.spec
    seen, start, towards = observation(spec, 0), np.random.default_rng(0).normal(size=(6, 12)), guide(1)
    wanted, weights = np.zeros((6, 12)), np.zeros((6, 12))
    wanted[:4, :3] = ((towards.actions - spec.action_mean) / spec.action_std)[:4]
    weights[:, :3] = towards.weights[:, None]
    with torch.inference_mode():
        network = assembled(policy)
        pixels, text, state = Encoder(described, network)([seen])
        cache = Cache(policy.config, 1, len(described.prompts["wave"]), torch.float32, CPU)
        begin, *guidance = (torch.tensor(part, dtype=torch.float32)[None] for part in (start, wanted, weights))
        sampler = Sampler(network, policy.config, PLANS[0].denoise_steps, compiled=False)
        expected = sampler(cache, pixels, text, state, begin, guide=guidance[0], weights=guidance[1])[0, :, :3].numpy()
    actions = engine.infer(seen, "slow", start, towards).actions
    np.testing.assert_allclose(actions, expected * spec.action_std + spec.action_mean, atol=1e-6)
    free = engine.infer(seen, "slow", start).actions
    off, remaining = (np.abs(found - towards.actions)[0].max() for found in (free, actions))
    assert remaining < 0.3 * off


def test_every_observation_of_a_batch_has_its_own_guide_or_none(
    public: tuple[PI0ForConditionalGeneration, Description],
) -> None:
    engine = started(public)
    seen = [observation(engine.spec, seed) for seed in range(4)]
    start, guides = np.random.default_rng(0).normal(size=(4, 6, 12)), [guide(0), None, guide(2), guide(3)]
    together = engine.infer_batch(seen, "fast", start, guides)
    for one, begin, towards, chunk in zip(seen, start, guides, together, strict=True):
        np.testing.assert_allclose(engine.infer(one, "fast", begin, towards).actions, chunk.actions, atol=1e-5)


def test_an_answer_outlives_the_next(public: tuple[PI0ForConditionalGeneration, Description]) -> None:
    engine = started(public)
    chunk = engine.infer(observation(engine.spec, 0), "slow", np.ones((6, 12)))
    kept = chunk.actions.copy()
    engine.infer(observation(engine.spec, 2), "slow", np.zeros((6, 12)))
    assert np.array_equal(chunk.actions, kept)


def test_an_instruction_is_embedded_once(
    public: tuple[PI0ForConditionalGeneration, Description], monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[int] = []
    words = PI0Network.words
    monkeypatch.setattr(PI0Network, "words", lambda self, ids: embedded.append(len(ids)) or words(self, ids))
    engine = started(public)
    for seed in (0, 1, 2, 3, 0):
        engine.infer(observation(engine.spec, seed), "fast", np.zeros((6, 12)))
    assert embedded == [2, 5]


def test_warming_up_sees_every_length(
    public: tuple[PI0ForConditionalGeneration, Description], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = started(public)
    run: list[tuple[str, str]] = []
    monkeypatch.setattr(engine, "infer", lambda seen, precision, noise: run.append((precision, seen.instruction)))
    for precision in engine.precisions:
        engine.warm_up(precision)
    assert run == [(plan.name, instruction) for plan in PLANS for instruction in engine.spec.instructions]


@pytest.mark.skipif("VLAQ_COMPILE" not in os.environ, reason="compiling takes a minute or more: set VLAQ_COMPILE=1")
def test_compiled_is_equal(public: tuple[PI0ForConditionalGeneration, Description]) -> None:
    policy, _ = public
    codes = quantized(policy, select.chosen(CPU))
    networks = {"slow": view(codes, 0, 8), "fast": view(codes, 1, 8)}
    for held in (dict.fromkeys(networks, assembled(policy)), networks):
        plain, compiled = (
            Engine(public[1], held, PLANS, select.chosen(CPU), Meter(CPU).read(policy.config, []), compiled=compiled)
            for compiled in (False, True)
        )
        for precision in plain.precisions:
            for seed in (0, 1):
                seen, start = observation(plain.spec, seed), np.random.default_rng(seed).normal(size=(6, 12))
                for towards in (None, guide(seed)):
                    wanted = plain.infer(seen, precision, start, towards).actions
                    found = compiled.infer(seen, precision, start, towards).actions
                    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_a_loaded_bundle_keeps_none_of_its_files_mapped(tiny_bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    engine = Engine.load(copy)
    assert str(copy) not in Path("/proc/self/maps").read_text()
    assert engine.precisions == ("fine", "coarse")
