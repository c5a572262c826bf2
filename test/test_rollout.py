"""The closed loop in process: it is a loop that works, it is fair between precisions, and it counts honestly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scripted import Expert

from vlaq_ros.cli.main import main
from vlaq_ros.config import PilotConfig, RobotConfig
from vlaq_ros.errors import NotQuantizedError, UnknownInstructionError, UnknownPrecisionError, VlaqError
from vlaq_ros.evaluate import parallel, rollout
from vlaq_ros.evaluate.rollout import Outcome, play, summary
from vlaq_ros.policy.engine import Engine
from vlaq_ros.policy.spec import PolicySpec

ROBOT = RobotConfig.load("sim_panda")


@pytest.fixture
def scripted(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Expert:
    scripted = Expert(PolicySpec.load(tiny_bundle))
    monkeypatch.setattr(rollout, "SimRobot", scripted.robot)
    return scripted


def outcome(seed: int, instruction: str, success: bool, precisions: tuple[str, ...]) -> Outcome:
    unused = np.zeros(len(precisions))
    return Outcome(seed, instruction, success, precisions, unused, unused, np.zeros((1, 8)))


def run(
    engine: Expert | Engine, count: int, precision: str = "auto", latency_s: float = 0.1, limit_s: float = 15.0
) -> list[Outcome]:
    instructions = engine.spec.instructions
    episodes = [(900_000 + k, instructions[k % len(instructions)]) for k in range(count)]
    config = PilotConfig(precision=precision)
    return list(play(engine, ROBOT, config, episodes, latency_s=latency_s, limit_s=limit_s))


def test_the_scripted_expert_succeeds_through_the_pilot(scripted: Expert) -> None:
    outcomes = run(scripted, 4)  # all colours, both kinds of task
    assert sum(outcome.success for outcome in outcomes) >= 3
    assert {outcome.instruction for outcome in outcomes} == set(scripted.spec.instructions[:4])
    assert {name for outcome in outcomes for name in outcome.precisions} == {"fine", "coarse"}


@pytest.mark.parametrize(("latency_s", "spacing_s"), [(0.1, 0.3), (0.5, 0.5)])
def test_one_inference_at_a_time_and_not_before_it_is_due(scripted: Expert, latency_s: float, spacing_s: float) -> None:
    run(scripted, 1, "fine", latency_s, limit_s=3.0)
    stamps_ns = [stamp for _, stamps, _ in scripted.calls for stamp in stamps]
    assert set(np.diff(stamps_ns)) == {round(spacing_s * 1e9)}


def test_all_episodes_that_are_due_share_a_batch(scripted: Expert) -> None:
    run(scripted, 4, "coarse", limit_s=1.0)
    assert [len(stamps) for _, stamps, _ in scripted.calls] == [4] * len(scripted.calls)


def test_every_precision_meets_the_same_noise(scripted: Expert) -> None:
    run(scripted, 3, "fine", limit_s=1.0)
    fine, scripted.calls = scripted.calls, []
    run(scripted, 3, "coarse", limit_s=1.0)
    assert {precision for precision, _, _ in scripted.calls} == {"coarse"}
    for (_, _, a), (_, _, b) in zip(fine, scripted.calls, strict=True):
        np.testing.assert_array_equal(a, b)
    first = fine[0][2]
    assert not np.array_equal(first[0], first[1])  # and every episode its own


@pytest.fixture(scope="module")
def engine(tiny_bundle: Path) -> Engine:
    return Engine.load(tiny_bundle)


def test_a_rollout_repeats_itself(engine: Engine) -> None:
    first, again = run(engine, 2, limit_s=1.5), run(engine, 2, limit_s=1.5)
    assert first == again
    for outcome, repeated in zip(first, again, strict=True):
        np.testing.assert_array_equal(outcome.joints, repeated.joints)


def test_the_joints_of_an_episode_include_the_time_to_settle(engine: Engine) -> None:
    for outcome in run(engine, 2, limit_s=0.2):  # too short to fail
        assert len(outcome.joints) > 1.5 * 0.2 / PilotConfig().monitor_period_s


def test_a_fixed_precision_flies_and_reports_as_one_that_is_always_asked_for(engine: Engine) -> None:
    fixed = run(engine, 2, "fine", limit_s=1.5)
    episodes = [(outcome.seed, outcome.instruction) for outcome in fixed]
    asked = list(play(engine, ROBOT, PilotConfig(), episodes, latency_s=0.1, limit_s=1.5, thresholds=[-1.0, 0.0]))
    assert asked == fixed
    for a, b in zip(asked, fixed, strict=True):
        np.testing.assert_array_equal(a.joints, b.joints)
        np.testing.assert_array_equal(a.sensitivities, b.sensitivities)


def test_the_source_checkpoint_runs_alone(tiny_bundle: Path) -> None:
    (outcome,) = run(Engine.load(tiny_bundle, full=True), 1, "full", limit_s=1.0)
    assert set(outcome.precisions) == {"full"}


def test_a_checkpoint_has_full_precision_and_no_other(tiny_checkpoint: Path) -> None:
    def play_one(precision: str) -> list[Outcome]:
        return parallel._play(
            tiny_checkpoint, precision, [(900_000, "pick up the red cube")], latency_s=0.1, limit_s=0.3
        )

    assert {name for outcome in play_one("full") for name in outcome.precisions} == {"full"}
    with pytest.raises(VlaqError) as mistake:
        play_one("auto")
    assert str(mistake.value) == str(NotQuantizedError(tiny_checkpoint))


def test_what_the_policy_does_not_have_is_told(engine: Engine) -> None:
    with pytest.raises(UnknownPrecisionError):
        run(engine, 1, "full")
    with pytest.raises(UnknownInstructionError):
        list(play(engine, ROBOT, PilotConfig(), [(0, "sing")], latency_s=0.1, limit_s=1.0))


def test_the_summary_counts(engine: Engine) -> None:
    outcomes = [
        outcome(1, "b", True, ("fine", "coarse", "coarse", "fine")),
        outcome(2, "a", False, ("coarse",)),
        outcome(3, "b", True, ("fine", "fine", "fine")),
    ]
    assert summary("auto", outcomes, 12.34) == {
        "precision": "auto",
        "n": 3,
        "successes": 2,
        "wilson95": [0.2077, 0.9385],
        "by_task": {"a": {"n": 1, "successes": 0}, "b": {"n": 2, "successes": 2}},
        "precision_share": {"coarse": 0.375, "fine": 0.625},
        "switches": 2,
        "rejections": 0,
        "seconds": 12.3,
    }


def test_processes_do_not_change_the_outcomes(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "PART", 1)
    episodes = [(900_000, "pick up the red cube"), (900_001, "put the blue cube in the bin")]
    shared = parallel.share_out(tiny_bundle, "fine", episodes, latency_s=0.1, limit_s=1.0, jobs=2)
    alone = [
        outcome
        for episode in episodes
        for outcome in parallel._play(tiny_bundle, "fine", [episode], latency_s=0.1, limit_s=1.0)
    ]
    assert sorted(shared, key=lambda outcome: outcome.seed) == alone


def test_a_mistake_comes_back_from_a_process_in_its_own_words(tiny_bundle: Path) -> None:
    wrong = parallel.share_out(tiny_bundle, "finest", [(0, "pick up the red cube")], latency_s=0.1, limit_s=1.0, jobs=1)
    with pytest.raises(VlaqError) as mistake:
        list(wrong)
    assert str(mistake.value) == str(UnknownPrecisionError("finest", ("auto", "fine", "coarse")))


def test_the_command_prints_a_table_and_ends_in_json(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def share_out(
        model: Path, precision: str, episodes: Sequence[tuple[int, str]], *, latency_s: float, limit_s: float, jobs: int
    ) -> list[Outcome]:
        assert (model, latency_s, limit_s, jobs) == (tiny_bundle, 0.2, 15.0, 1)
        full = precision == "full"
        return [outcome(seed, instruction, full or seed % 3 > 0, (precision,) * 4) for seed, instruction in episodes]

    monkeypatch.setattr(parallel, "share_out", share_out)
    arguments = ["--episodes", "12", "--seed", "30", "--latency", "0.2", "--jobs", "1", "--precision", "full", "fine"]
    assert main(["rollout", "--model", str(tiny_bundle), *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[-2])["precision"] == "full"
    assert json.loads(lines[-1]) == {
        "precision": "fine",
        "n": 12,
        "successes": 8,
        "wilson95": [0.3906, 0.8619],
        "by_task": {
            "pick up the blue cube": {"n": 2, "successes": 2},
            "pick up the green cube": {"n": 2, "successes": 2},
            "pick up the red cube": {"n": 2, "successes": 0},
            "put the blue cube in the bin": {"n": 2, "successes": 2},
            "put the green cube in the bin": {"n": 2, "successes": 2},
            "put the red cube in the bin": {"n": 2, "successes": 0},
        },
        "precision_share": {"fine": 1.0},
        "switches": 0,
        "rejections": 0,
        "seconds": json.loads(lines[-1])["seconds"],
    }
    table = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert ["pick up the cube", "6 of 6", "4 of 6"] in table
    assert ["put the cube in the bin", "6 of 6", "4 of 6"] in table
    assert ["all", "12 of 12", "8 of 12"] in table
    assert ["fine", "4", "0", "0.125"] in table
