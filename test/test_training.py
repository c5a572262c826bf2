"""Training: its fast losses are transformers' own, it resumes exactly, and what it leaves is a checkpoint."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_demonstrations import EPISODES, record
from torch import Tensor
from transformers import AutoTokenizer, PI0ForConditionalGeneration, PreTrainedTokenizerFast

from vlaq_ros.datatypes import ActionSpace, Observation
from vlaq_ros.errors import ModelNotFoundError, OutputExistsError
from vlaq_ros.policy.checkpoint import Checkpoint
from vlaq_ros.policy.engine import Engine
from vlaq_ros.policy.spec import PolicySpec
from vlaq_ros.policy.tokenizer import build_tokenizer, longest_text, prompt_ids
from vlaq_ros.policy.transforms import pixel_values
from vlaq_ros.sim import demonstrations, network, training
from vlaq_ros.sim.frames import Batch, Frames
from vlaq_ros.sim.guidance import OBJECTS, Guidance, Labels
from vlaq_ros.sim.scene import CAMERAS, TASKS
from vlaq_ros.sim.training import (
    DRAWS,
    NoDemonstrationsError,
    OtherRunError,
    Progress,
    Recipe,
    TooFewDemonstrationsError,
)

TINY = Recipe(episodes=EPISODES, vision_steps=2, steps=4, batch=4, processes=1)
STEPS, COLUMNS = demonstrations.CHUNK_STEPS, 8
STACK = "put the green cube on the red cube"
IMAGE_TOKENS = len(CAMERAS) * network.GRID**2


# The losses


@pytest.fixture
def policy() -> PI0ForConditionalGeneration:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return network.build(build_tokenizer(TASKS), state_size=8, action_size=COLUMNS)


@pytest.fixture
def guidance() -> Guidance:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Guidance()


def batch(size: int) -> Batch:
    random = torch.Generator().manual_seed(size)
    tokenizer = build_tokenizer(TASKS)
    length = longest_text(tokenizer, TASKS)
    return Batch(
        images=torch.rand(size, len(CAMERAS), 3, network.IMAGE_PX, network.IMAGE_PX, generator=random) * 2 - 1,
        prompts=torch.stack([prompt_ids(tokenizer, text, IMAGE_TOKENS, length) for text in list(TASKS)[:size]]),
        state=torch.randn(size, 8, generator=random),
        actions=torch.randn(size, STEPS, COLUMNS, generator=random),
        labels=Labels(
            torch.rand(size, len(CAMERAS), OBJECTS, 2, generator=random),
            torch.stack([torch.arange(size) % 3, torch.full((size,), 3)], 1),
            torch.randn(size, 2, 3, generator=random),
            torch.randn(size, generator=random),
        ),
    )


def draws(size: int, seed: int) -> tuple[Tensor, Tensor]:
    """The flow times [size * DRAWS] and noise that a generator of this seed gives the losses."""
    random = torch.Generator().manual_seed(seed)
    share = (torch.arange(DRAWS) + torch.rand(size, DRAWS, generator=random)) / DRAWS
    flow_time = 0.001 + 0.999 * share ** (1 / 1.5)
    return flow_time.flatten(), torch.randn(size * DRAWS, STEPS, COLUMNS, generator=random)


def by_transformers(
    policy: PI0ForConditionalGeneration, frames: Batch, flow_time: Tensor, noise: Tensor, **options: Any
) -> Any:
    """Every draw as a frame of its own, through the class's forward."""
    ids = frames.prompts.repeat_interleave(DRAWS, 0)
    return policy(
        state=frames.state.repeat_interleave(DRAWS, 0),
        noise=noise,
        timestep=flow_time,
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=frames.images.repeat_interleave(DRAWS, 0),
        pixel_attention_mask=torch.ones(len(ids), len(CAMERAS), dtype=torch.bool),
        actions=frames.actions.repeat_interleave(DRAWS, 0),
        **options,
    )


def losses(
    policy: PI0ForConditionalGeneration, guidance: Guidance, frames: Batch, seed: int, *, vision_only: bool
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return training._losses(policy, guidance, frames, generator, vision_only=vision_only)[0]


def test_the_flow_loss_and_its_gradients_are_those_of_transformers(
    policy: PI0ForConditionalGeneration, guidance: Guidance
) -> None:
    frames = batch(2)
    ours = losses(policy, guidance, frames, 5, vision_only=False)["flow"]
    theirs = by_transformers(policy, frames, *draws(2, 5)).loss.mean()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)

    names, parameters = zip(*policy.named_parameters(), strict=True)
    gradients = (torch.autograd.grad(loss, parameters, allow_unused=True) for loss in (ours, theirs))
    for name, our, their in zip(names, *gradients, strict=True):
        assert (our is None) == (their is None), name
        if their is not None:
            # keys' biases have no gradient but rounding: softmax does not see them
            assert (our - their).abs().max() <= 1e-4 * their.abs().max() + 1e-7, name


def test_flow_times_are_one_from_each_share_of_a_beta_distribution(
    policy: PI0ForConditionalGeneration, guidance: Guidance
) -> None:
    """Beta(1.5, 1) between 0.001 and 1, as pi0 has it; its distribution function is x ** 1.5."""
    seen: list[Tensor] = []
    policy.embed_action_time.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
    losses(policy, guidance, batch(3), 0, vision_only=False)
    shares = ((seen[0].reshape(3, DRAWS) - 0.001) / 0.999) ** 1.5
    assert torch.equal((shares * DRAWS).floor(), torch.arange(DRAWS).expand(3, DRAWS).float())
    config = policy.config
    assert (config.time_sampling_beta_alpha, config.time_sampling_beta_beta) == (1.5, 1.0)
    assert (config.time_sampling_offset, config.time_sampling_scale) == (0.001, 0.999)


def test_what_the_state_token_looks_at_is_what_it_attends_to(
    policy: PI0ForConditionalGeneration, guidance: Guidance, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = batch(2)
    seen: list[list[Tensor]] = []
    expert = guidance.expert
    monkeypatch.setattr(guidance, "expert", lambda *arguments: seen.append(arguments[1]) or expert(*arguments))
    losses(policy, guidance, frames, 7, vision_only=False)
    policy.set_attn_implementation("eager")
    attentions = by_transformers(policy, frames, *draws(2, 7), output_attentions=True).attentions
    length = frames.prompts.shape[1]
    assert len(seen[0]) == len(attentions) == network.LAYERS
    for look, attention in zip(seen[0], attentions, strict=True):
        over_prefix = attention[::DRAWS, :, 0, :length]  # beside it the state token sees itself alone
        torch.testing.assert_close(look.softmax(-1), over_prefix / over_prefix.sum(-1, keepdim=True))


def test_the_vision_stage_teaches_the_vision_tower_alone(
    policy: PI0ForConditionalGeneration, guidance: Guidance
) -> None:
    found = losses(policy, guidance, batch(2), 0, vision_only=True)
    assert list(found) == ["vision"]
    found["vision"].backward()
    taught = {
        name for name, parameter in policy.named_parameters() if parameter.grad is not None and parameter.grad.any()
    }
    assert taught == {
        name
        for name, _ in policy.named_parameters()
        if name.startswith(("model.vlm.vision_tower.", "model.vlm.multi_modal_projector."))
    }


def test_every_loss_counts_in_the_second_stage(policy: PI0ForConditionalGeneration, guidance: Guidance) -> None:
    found = losses(policy, guidance, batch(2), 0, vision_only=False)
    assert list(found) == ["vision", "language", "flow", "expert"]
    assert all(loss.requires_grad and loss.item() > 0 for loss in found.values())


# The frames


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def raw(demos: Path) -> dict[str, np.ndarray]:
    return demonstrations.load(demonstrations.plan(demos, EPISODES))[0]


@pytest.fixture(scope="module")
def spec(demos: Path) -> PolicySpec:
    return training.spec_of(*demonstrations.load(demonstrations.plan(demos, EPISODES)), TINY, text_length=10)


@pytest.fixture(scope="module")
def frames(raw: dict[str, np.ndarray], spec: PolicySpec) -> Frames:
    return Frames(raw, spec, build_tokenizer(TASKS))


def test_held_out_episodes_are_never_trained_on(raw: dict[str, np.ndarray], frames: Frames) -> None:
    assert set(raw["seed"][frames.held_out]) == {0}  # 1 seed in 40
    assert set(raw["seed"][frames.training]) == set(range(1, EPISODES))


def test_the_network_is_shown_what_the_robot_will_show_it(
    raw: dict[str, np.ndarray], frames: Frames, spec: PolicySpec
) -> None:
    rows = torch.tensor([0, 30, 60, int((raw["instruction"] == list(TASKS).index(STACK)).argmax())])
    shown = frames.batch(rows, None)
    for i, row in enumerate(rows):
        expected = torch.stack([pixel_values(image, network.IMAGE_PX) for image in raw["images"][row]])
        torch.testing.assert_close(shown.images[i], expected)
        state = (raw["state"][row] - spec.state_mean) / spec.state_std
        torch.testing.assert_close(shown.state[i], torch.tensor(state, dtype=torch.float32))
        actions = raw["joint"][row] * 1.0
        restored = shown.actions[i].numpy() * spec.action_std + spec.action_mean
        np.testing.assert_allclose(restored, actions, atol=1e-5)
        task = list(TASKS.values())[raw["instruction"][row]]
        order = ["red", "green", "blue", None]  # the last is the receptacle
        assert shown.labels.named[i].tolist() == [order.index(task.colour), order.index(task.onto)]
        for name in ("pixels", "relative", "turn"):
            assert torch.equal(getattr(shown.labels, name)[i], torch.from_numpy(raw[name])[row]), name


def test_every_instruction_is_drawn_as_often_whatever_its_episodes_last(
    raw: dict[str, np.ndarray], frames: Frames
) -> None:
    counts = np.bincount(raw["instruction"][frames.training], minlength=len(TASKS))
    assert counts.max() > 1.5 * counts[counts > 0].min()
    rows = frames.draw(20_000, torch.Generator().manual_seed(0))
    assert set(rows.tolist()) == set(frames.training.tolist())
    drawn = np.bincount(raw["instruction"][rows], minlength=len(TASKS))[counts > 0] / len(rows)
    assert drawn == pytest.approx(1 / np.count_nonzero(counts), abs=0.01)  # 4 deviations


def test_training_disturbs_colours_and_states_but_no_label(frames: Frames) -> None:
    rows = torch.arange(8)
    clean, disturbed = frames.batch(rows, None), frames.batch(rows, torch.Generator().manual_seed(0))
    assert torch.equal(disturbed.actions, clean.actions)
    assert torch.equal(disturbed.prompts, clean.prompts)
    assert torch.equal(disturbed.labels.relative, clean.labels.relative)
    assert disturbed.images.abs().max() <= 1
    assert 0.01 < (disturbed.images - clean.images).abs().mean() < 0.5
    assert 0.01 < (disturbed.state - clean.state).std() < 0.03


@pytest.mark.parametrize(("space", "columns"), [(ActionSpace.JOINT, 8), (ActionSpace.END_EFFECTOR, 7)])
def test_statistics_are_those_of_the_demonstrations(
    demos: Path, raw: dict[str, np.ndarray], space: ActionSpace, columns: int
) -> None:
    made = training.spec_of(
        *demonstrations.load(demonstrations.plan(demos, EPISODES)), replace(TINY, action_space=space), text_length=10
    )
    assert made.action_space is space
    assert made.action_mean.shape == (STEPS, columns)
    normalised = (raw[space.value] - made.action_mean) / made.action_std
    np.testing.assert_allclose(normalised.mean(0), 0, atol=1e-5)
    assert ((normalised.std(0) > 0.5) & (normalised.std(0) <= 1)).all()  # a thousandth is added to small deviations
    np.testing.assert_allclose(((raw["state"] - made.state_mean) / made.state_std).mean(0), 0, atol=1e-4)
    assert made.instructions == tuple(TASKS)
    assert made.motion.period_s == training.MOTION_PERIOD_S
    assert 0.005 < made.motion.displacement_m < 0.05  # the expert moves at 0.3 m/s at the most
    assert made.motion.rotation_rad > 0


# The run


@pytest.fixture(scope="module")
def run(demos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Progress]]:
    """A run without interruption, and what it reported."""
    out, reports = tmp_path_factory.mktemp("run"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "REPORT_EVERY", 2)
        training.train(demos, out, TINY, reports.append)
    return out, reports


@pytest.fixture(scope="module")
def trained(run: tuple[Path, list[Progress]]) -> Path:
    return run[0]


def checkpoint(directory: Path) -> dict[str, Any]:
    return torch.load(directory / "checkpoint.pt", weights_only=True)


def contents(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in directory.iterdir()}


def logged(directory: Path) -> list[dict[str, Any]]:
    """The log, every line strict JSON: Python alone knows NaN."""
    lines = (directory / "log.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=pytest.fail) for line in lines]


def test_progress_is_reported_and_logged(run: tuple[Path, list[Progress]]) -> None:
    out, reports = run
    assert [(report.step, report.steps) for report in reports] == [(2, 6), (4, 6), (6, 6)]
    assert [list(report.losses) for report in reports] == [["vision"], *[["vision", "language", "flow", "expert"]] * 2]
    errors = [(report.object_error_m, report.destination_error_m, report.turn_error_rad) for report in reports]
    assert errors[0] == (None, None, None)  # the state token is not yet taught
    assert all(0 < error < 2 for line in errors[1:] for error in line)
    assert logged(out) == [asdict(report) for report in reports]


def test_a_loss_is_averaged_over_the_steps_that_had_it(
    demos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(TINY, vision_steps=1, steps=2)
    every: dict[int, list[Progress]] = {}
    for interval in (1, 3):
        monkeypatch.setattr(training, "REPORT_EVERY", interval)
        training.train(demos, tmp_path / str(interval), recipe, every.setdefault(interval, []).append)
    (whole,) = every[3]
    assert list(whole.losses) == ["vision", "language", "flow", "expert"]
    for name, mean in whole.losses.items():
        found = [report.losses[name] for report in every[1] if name in report.losses]
        assert len(found) == (3 if name == "vision" else 2)
        assert mean == pytest.approx(np.mean(found), rel=1e-6)


def test_a_run_that_was_interrupted_ends_with_the_same_weights(
    demos: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 3)
    monkeypatch.setattr(training, "REPORT_EVERY", 2)
    update, calls = training._Run._update, []

    def interrupted(self: training._Run, loss: Tensor) -> None:
        calls.append(loss)
        if len(calls) == 5:
            raise KeyboardInterrupt
        update(self, loss)

    with monkeypatch.context() as patch:
        patch.setattr(training._Run, "_update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            training.train(demos, tmp_path, TINY, lambda _: None)
    assert checkpoint(tmp_path)["step"] == 3  # what came after it is lost
    assert [line["step"] for line in logged(tmp_path)] == [2, 4]
    Engine.load(tmp_path, full=True)  # and it is a checkpoint already

    training.train(demos, tmp_path, TINY, lambda _: None)
    resumed, whole = checkpoint(tmp_path), checkpoint(trained)
    assert resumed["step"] == whole["step"] == 6
    assert [line["step"] for line in logged(tmp_path)] == [2, 4, 6]  # the lost step is told once
    for part in ("policy", "guidance"):
        torch.testing.assert_close(resumed[part], whole[part], rtol=0, atol=0)
    torch.testing.assert_close(resumed["optimizer"]["state"], whole["optimizer"]["state"], rtol=0, atol=0)
    assert (tmp_path / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_a_run_that_has_ended_is_left_alone(demos: Path, trained: Path) -> None:
    before = contents(trained)
    training.train(demos, trained, TINY, lambda _: pytest.fail("nothing is left to report"))
    assert contents(trained) == before


def test_a_run_of_another_recipe_is_not_overwritten(demos: Path, trained: Path) -> None:
    before = contents(trained)
    with pytest.raises(OtherRunError) as caught:
        training.train(demos, trained, replace(TINY, seed=1), lambda _: None)
    assert str(caught.value) == (
        f"{str(trained)!r} holds a run of another recipe; give the same arguments as then, or another --out"
    )
    assert contents(trained) == before


def test_it_leaves_what_transformers_alone_can_load(trained: Path) -> None:
    loaded, found = PI0ForConditionalGeneration.from_pretrained(trained, output_loading_info=True)
    assert not any(found.values()), found
    end = checkpoint(trained)["policy"]
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter.float(), end[name].half().float()), name
    words = build_tokenizer(TASKS)
    for tokenizer in (PreTrainedTokenizerFast.from_pretrained(trained), AutoTokenizer.from_pretrained(trained)):
        for text in TASKS:
            assert tokenizer(text)["input_ids"] == words(text)["input_ids"]


def test_it_leaves_a_checkpoint_that_moves_the_robot(trained: Path, raw: dict[str, np.ndarray]) -> None:
    engine = Engine.load(trained, full=True)
    spec = engine.spec
    seen = Observation(
        stamp_ns=5,
        images=dict(zip(spec.cameras, raw["images"][0], strict=True)),
        joint_names=spec.joint_names,
        joint_positions=raw["state"][0].astype(np.float64),
        instruction=spec.instructions[raw["instruction"][0]],
    )
    assert engine.noise_shape == (STEPS, COLUMNS)
    chunk = engine.infer(seen, "full", np.random.default_rng(0).normal(size=engine.noise_shape))
    assert chunk.space is ActionSpace.JOINT
    assert chunk.step_s == demonstrations.STEP_S
    assert chunk.actions.shape == (STEPS, COLUMNS)
    assert np.isfinite(chunk.actions).all()


def test_prompts_of_the_checkpoint_are_those_it_was_trained_on(trained: Path, raw: dict[str, np.ndarray]) -> None:
    left = Checkpoint.open(trained)
    shown = Frames(raw, left.spec, build_tokenizer(TASKS)).batch(torch.arange(len(raw["seed"])), None)
    for prompt, task in zip(shown.prompts, raw["instruction"], strict=True):
        assert torch.equal(prompt, left.prompts[list(TASKS)[task]])


def test_two_processes_train_together(demos: Path, tmp_path: Path) -> None:
    recipe = replace(TINY, vision_steps=1, steps=1, processes=2, action_space=ActionSpace.END_EFFECTOR)
    training.train(demos, tmp_path, recipe, lambda _: None)
    assert checkpoint(tmp_path)["step"] == 2
    assert PolicySpec.load(tmp_path).action_space is ActionSpace.END_EFFECTOR


@pytest.mark.parametrize("left_over", [None, "0000000-0000024.partial.npz"])
def test_without_demonstrations_there_is_nothing_to_train_on(tmp_path: Path, left_over: str | None) -> None:
    if left_over is not None:
        (tmp_path / left_over).write_bytes(b"PK")
    with pytest.raises(NoDemonstrationsError) as caught:
        training.train(tmp_path, tmp_path / "out", TINY, lambda _: None)
    assert str(caught.value) == (
        f"demonstrations {str(tmp_path / f'0000000-{EPISODES - 1:07d}.npz')!r} are missing; record them: "
        "vlaq train does so by itself"
    )
    assert not (tmp_path / "out").exists()


def test_one_episode_is_too_few(tmp_path: Path) -> None:
    assert list(demonstrations.generate(demonstrations.plan(tmp_path, 1), processes=1)) == [(1, 1)]
    with pytest.raises(TooFewDemonstrationsError) as caught:
        training.train(tmp_path, tmp_path / "out", replace(TINY, episodes=1), lambda _: None)
    frames = len(demonstrations.load(demonstrations.plan(tmp_path, 1))[0]["seed"])
    assert str(caught.value) == (
        f"the demonstrations have 0 frames to train on and {frames} frames of held-out episodes (1 in 40), "
        "expected some of each; give more --episodes"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["file", "file/deeper/out"])
def test_a_file_is_not_overwritten(tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputExistsError) as caught:
        training.check(tmp_path / out, TINY)
    assert str(caught.value) == (
        f"{str(tmp_path / 'file')!r} exists; nothing was written: remove it, or give another --out"
    )


# A run that begins from a checkpoint


@pytest.fixture(scope="module")
def released(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is kept of a run: the policy alone."""
    directory = tmp_path_factory.mktemp("released") / "policy"
    shutil.copytree(trained, directory, ignore=shutil.ignore_patterns(training.CHECKPOINT_FILE, training.LOG_FILE))
    return directory


def test_a_run_begins_from_a_checkpoint(demos: Path, released: Path, tmp_path: Path) -> None:
    still = replace(TINY, init=released, vision_steps=0, steps=1, learning_rate=0.0)
    training.train(demos, tmp_path, still, lambda _: None)
    began, source = checkpoint(tmp_path)["policy"], Checkpoint.open(released)
    assert began.keys() == source.places.keys()
    for name, tensor in began.items():
        assert torch.equal(tensor, source.tensor(name).float()), name
    assert (tmp_path / "policy.json").read_bytes() == (released / "policy.json").read_bytes()  # of the demonstrations


def test_it_is_the_weights_to_begin_from_that_make_a_run_another(
    demos: Path, released: Path, tmp_path: Path, policy: PI0ForConditionalGeneration
) -> None:
    recipe = replace(TINY, init=released, vision_steps=0, steps=1)
    training.train(demos, tmp_path / "out", recipe, lambda _: None)
    moved = tmp_path / "moved"
    shutil.copytree(released, moved)
    training.check(tmp_path / "out", replace(recipe, init=moved))
    policy.save_pretrained(moved)
    for other in (moved, None):
        with pytest.raises(OtherRunError):
            training.check(tmp_path / "out", replace(recipe, init=other))


def test_a_model_that_is_no_run_is_not_overwritten(released: Path) -> None:
    """Not even by a run that begins from it."""
    with pytest.raises(OutputExistsError):
        training.check(released, replace(TINY, init=released))


def test_what_is_no_checkpoint_cannot_be_begun_from(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        training.check(tmp_path / "out", replace(TINY, init=tmp_path))
