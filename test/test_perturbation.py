"""One chunk of low precision in an episode: what moves its end is that chunk and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scripted import Expert

from vlaq_ros.calibrate.injection import Chunk, Injection
from vlaq_ros.calibrate.perturbation import WithFull, perturb
from vlaq_ros.config import PilotConfig, RobotConfig
from vlaq_ros.datatypes import ActionChunk, FloatArray, Guide, Observation
from vlaq_ros.evaluate import rollout
from vlaq_ros.evaluate.rollout import play
from vlaq_ros.policy.engine import Engine
from vlaq_ros.policy.manifest import PrecisionPlan
from vlaq_ros.policy.spec import PolicySpec

ROBOT = RobotConfig.load("sim_panda")
SOLVED, IGNORED = "pick up the red cube", "pick up the blue cube"
EPISODES = [(900_000, SOLVED), (900_001, IGNORED)]


class Shifted:
    """What the expert answers, with a shift at the coarse precision; it stands still when asked for `IGNORED`."""

    def __init__(self, expert: Expert, names: tuple[str, ...], shift_m: float = 0.0) -> None:
        self.spec, self.noise_shape, self.precisions = expert.spec, expert.noise_shape, names
        self.guidable = expert.guidable
        self.plans = tuple(PrecisionPlan(name, 8, 8, -float(k)) for k, name in enumerate(names))
        self._expert, self._shift_m = expert, shift_m

    def infer(
        self, observation: Observation, precision: str, noise: FloatArray, guide: Guide | None = None
    ) -> ActionChunk:
        return self.infer_batch([observation], precision, noise[None])[0]

    def infer_batch(
        self,
        observations: Sequence[Observation],
        precision: str,
        noise: FloatArray,
        guides: Sequence[Guide | None] | None = None,
    ) -> list[ActionChunk]:
        shift = np.zeros(7)
        shift[1] = self._shift_m * (precision == "coarse")
        chunks = []
        for observation in observations:
            chunk = self._expert.remember(observation)
            still = np.zeros_like(chunk.actions) if observation.instruction == IGNORED else chunk.actions + shift
            chunks.append(ActionChunk(chunk.stamp_ns, chunk.step_s, chunk.space, still))
        return chunks


class Remembering(Expert):
    """An expert that can be asked again when the scene has moved on."""

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__(spec)
        self._plans: dict[tuple[int, bytes], ActionChunk] = {}

    def remember(self, observation: Observation) -> ActionChunk:
        key = observation.stamp_ns, observation.joint_positions.tobytes()
        if key not in self._plans:
            self._plans[key] = self._plan(observation)
        return self._plans[key]


@pytest.fixture
def expert(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Remembering:
    expert = Remembering(PolicySpec.load(tiny_bundle))
    monkeypatch.setattr(rollout, "SimRobot", expert.robot)
    return expert


def measure(expert: Remembering, shift_m: float) -> tuple[list[Chunk], list[Injection], list[int]]:
    full, quantized = Shifted(expert, ("full",)), Shifted(expert, ("fine", "coarse"), shift_m)
    done: list[int] = []
    chunks, injections = perturb(full, quantized, EPISODES, each=2, seed=0, report=done.append)
    return chunks, injections, done


def test_what_full_precision_would_answer_too_moves_nothing(expert: Remembering) -> None:
    chunks, injections, done = measure(expert, 0.0)
    assert done == [1, 1, 2, 1, 1]  # two episodes, the two runs of the one that fails, and those of the other
    assert {chunk.seed for chunk in chunks} == {900_000, 900_001}
    assert {row.chunk.instruction for row in injections} == {SOLVED}
    assert len({row.chunk.index for row in injections}) == len(injections) == 2
    for row in injections:
        assert (row.error, row.deviation_m, row.success) == (0.0, 0.0, True)


def test_an_error_has_its_size_and_moves_the_end(expert: Remembering) -> None:
    shift_m = 0.01
    chunks, injections, _ = measure(expert, shift_m)
    for chunk in chunks:
        steps = len(expert.spec.action_mean) if chunk.instruction == SOLVED else 0  # of deviation 1 in each
        assert chunk.errors == {"fine": 0.0, "coarse": pytest.approx(shift_m * np.sqrt(steps))}
    for row in injections:
        assert row.precision == "coarse"
        assert row.error == pytest.approx(shift_m * 4)
        assert 0 < row.deviation_m < 1
    solved = [chunk for chunk in chunks if chunk.instruction == SOLVED]
    assert [chunk.index for chunk in solved] == list(range(len(solved)))
    assert {"reach", "grasp"} <= {chunk.phase for chunk in solved}
    assert np.all(np.diff([chunk.time_s for chunk in solved]) > 0)


def test_a_bundle_with_its_checkpoint_is_one_policy(tiny_bundle: Path) -> None:
    full, quantized = Engine.load(tiny_bundle, full=True), Engine.load(tiny_bundle)
    both = WithFull(full, quantized)
    assert both.precisions == ("full", "fine", "coarse")
    assert [plan.name for plan in both.plans] == list(both.precisions)
    size = full.spec.image_size_px
    images = dict.fromkeys(full.spec.cameras, np.full((size, size, 3), 128, dtype=np.uint8))
    seen = Observation(0, images, full.spec.joint_names, full.spec.state_mean, SOLVED)
    noise = np.random.default_rng(0).standard_normal(full.noise_shape)
    for policy in (full, quantized):
        for name in policy.precisions:
            expected = policy.infer(seen, name, noise)
            np.testing.assert_array_equal(both.infer(seen, name, noise).actions, expected.actions)


def test_an_episode_does_not_depend_on_its_company(tiny_bundle: Path) -> None:
    both = WithFull(Engine.load(tiny_bundle, full=True), Engine.load(tiny_bundle))

    def run(episodes: list[tuple[int, str]]) -> dict[int, FloatArray]:
        outcomes = play(both, ROBOT, PilotConfig(precision="full"), episodes, latency_s=0.1, limit_s=1.0)
        return {outcome.seed: outcome.joints for outcome in outcomes}

    together = run(EPISODES)
    for episode in EPISODES:
        np.testing.assert_array_equal(run([episode])[episode[0]], together[episode[0]])
