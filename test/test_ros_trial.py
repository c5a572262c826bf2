"""Trials against stand-ins for pilot and scene and an ideal arm, over DDS: what is asked of them, and what aborts."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from node_bench import DOMAIN_ID
from rosbags.highlevel import AnyReader
from stand_ins import Stage, staged

from vlaq_ros.errors import BadValueError
from vlaq_ros.evaluate.operator import Operator
from vlaq_ros.evaluate.referee import SUCCESS_HELD_S
from vlaq_ros.evaluate.trial import ConditionConfig, SceneConfig, SuccessConfig, TrialPlan, order
from vlaq_ros.evaluate.trial_log import Record, TrialLog
from vlaq_ros.ros import trial as ros_trial
from vlaq_ros.ros.encode import ERROR, WARN
from vlaq_ros.ros.station import Station
from vlaq_ros.ros.trial import INTERRUPTED, SessionEndedError, Trials

SHIPPED = TrialPlan.load("sim")
PLAN = replace(
    SHIPPED,
    conditions={"fine": ConditionConfig("fine"), "coarse": ConditionConfig("coarse")},
    trials=1,
    time_limit_s=1.0,
    start=replace(SHIPPED.start, positions=(0.0, -0.4, 0.0, -2.43, 0.0, 2.0, 0.8, 0.04), velocity_share=1.0),
    processes="running",
)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(ros_trial, "FAULT_S", 0.3)
    monkeypatch.setattr(ros_trial, "SILENT_S", 1.0)
    yield from staged(monkeypatch)


class Person:
    """An operator at a terminal.

    Attributes:
        answers: what is typed at each question.
        heard: all that was said.
    """

    def __init__(self, *answers: str) -> None:
        self.answers, self.heard = list(answers), list[str]()
        self.terminal, self._keys = os.pipe()

    def hear(self, line: str) -> None:
        self.heard.append(line)
        if "a: end the session" in line and self.answers:
            self.type(self.answers.pop(0))

    def type(self, line: str) -> None:
        os.write(self._keys, f"{line}\n".encode())

    def leave(self) -> None:
        os.close(self._keys)


@contextmanager
def trials(plan: TrialPlan, out: Path, person: Person) -> Iterator[tuple[Trials, TrialLog]]:
    """A session and its record."""
    with (
        Station("vlaq_trial", "", DOMAIN_ID) as station,
        TrialLog(out, plan) as log,
        Operator(person.terminal, person.hear) as operator,
    ):
        yield Trials(plan, out, log, station, operator), log


def run(plan: TrialPlan, out: Path) -> tuple[Record, ...]:
    with trials(plan, out, Person()) as (session, log):
        session.run()
        return log.records


def ended(plan: TrialPlan, out: Path) -> tuple[str, tuple[Record, ...]]:
    """Run a session that ends early: its last words and its record."""
    with trials(plan, out, Person()) as (session, log), pytest.raises(SessionEndedError) as end:
        session.run()
    return str(end.value), log.records


def read(bag: Path) -> set[str]:
    with AnyReader([bag]) as reader:
        return {connection.topic for connection, _, _ in reader.messages()}


def test_a_plan_is_run_to_its_end(stage: Stage, tmp_path: Path) -> None:
    plan = replace(
        PLAN, conditions={"fine": ConditionConfig("fine", "one"), "coarse": ConditionConfig("coarse", "two")}
    )
    poses: list[Any] = []
    stage.pilot.on_enable = lambda: poses.append(stage.robot.positions())
    stage.pilot.on_chunk = lambda: stage.scene.succeed(stage.pilot.get_parameter("precision").value == "fine")
    records = run(plan, tmp_path)

    slots = order(plan)
    assert [(entry.number, entry.condition, entry.instruction, entry.seed) for entry in records] == [
        (slot.number, slot.condition, slot.instruction, slot.seed) for slot in slots
    ]
    for entry in records:
        assert entry.success is (entry.condition == "fine")
        assert entry.abort == ""
        assert entry.seconds >= (SUCCESS_HELD_S if entry.success else plan.time_limit_s)
        assert list(entry.chunks) == [entry.condition]
        assert (entry.latency_p50_ms, entry.latency_p95_ms) == (40.0, 40.0)
        assert entry.model == plan.conditions[entry.condition].model
        assert {"/joint_states", "/pilot/precision", "/instruction"} <= read(tmp_path / entry.bag)
    assert set(stage.scene.log) == {f"{slots[0].seed}: {slots[0].instruction}"}
    np.testing.assert_allclose(poses, [plan.start.positions] * 2, atol=plan.start.tolerance_rad)

    told = [line for line in stage.pilot.log if line.startswith(("told", "enabled", "disabled"))]
    assert told == ["enabled", f"told {slots[0].instruction!r}", "told ''", "disabled"] * 2
    loaded = [line for line in stage.pilot.log if line.startswith("configured")]
    assert loaded == [f"configured with {plan.conditions[slot.condition].model}" for slot in slots]
    assert run(plan, tmp_path) == records  # there is nothing left to do


def test_a_stopped_pilot_ends_the_session_and_is_never_released(stage: Stage, tmp_path: Path) -> None:
    stage.pilot.on_chunk = lambda: stage.pilot.stop("~/stop was called")
    words, records = ended(PLAN, tmp_path)
    assert words == (
        "the session ended at trial 1: the pilot was stopped: ~/stop was called; see to it, and run the same command "
        "again to go on"
    )
    assert [(entry.success, entry.abort) for entry in records] == [(None, "the pilot was stopped: ~/stop was called")]
    assert stage.pilot.stopped
    assert not stage.pilot.enabled
    commands = len(stage.robot.commands)
    words, records = ended(PLAN, tmp_path)  # nothing moves before a person has released it
    assert "the pilot was stopped" in words
    assert len(stage.robot.commands) == commands

    stage.pilot.on_chunk = lambda: None
    stage.pilot.stop("")
    records = run(PLAN, tmp_path)
    assert [entry.success for entry in records] == [None, None, False, False]
    assert sorted(entry.number for entry in records if entry.success is not None) == [0, 1]


def test_a_stop_brakes_the_way_to_the_start_pose(stage: Stage, tmp_path: Path) -> None:
    plan = replace(PLAN, start=replace(PLAN.start, velocity_share=0.02))  # seconds on the way
    with trials(plan, tmp_path, Person()) as (session, log):
        threading.Timer(1.5, lambda: stage.pilot.stop("the emergency stop is pressed")).start()
        with pytest.raises(SessionEndedError):
            session.run()
        assert "the emergency stop is pressed" in log.records[0].abort
        way, brake = stage.robot.commands
    assert brake.velocities is not None
    assert not brake.velocities[-1].any()
    assert brake.times_ns[-1] - brake.times_ns[0] < 1e9
    left = np.abs(brake.positions[-1] - plan.start.positions).max()
    assert 0.01 < left < np.abs(way.positions[0] - plan.start.positions).max()


OLD_IMAGE = {"cameras": (WARN, "camera front: 3.00 s old, allowed 0.30 s")}


@pytest.mark.parametrize(
    ("limit_s", "spoil", "abort"),
    [
        (30.0, {"health": {"controller": (ERROR, "the arm rests")}}, "controller: the arm rests"),
        (30.0, {"falls_back_to": "int2"}, r"a chunk was computed at int2, expected \w+ alone"),
        (
            30.0,
            {"chunks": False, "health": OLD_IMAGE},
            "the pilot sent no chunk for 1 s: cameras: camera front: 3.00 s old, allowed 0.30 s",
        ),
        (0.5, {"chunks": False}, "the pilot sent no chunk: it names no reason in /diagnostics"),
    ],
)
def test_a_fault_is_no_failure_and_is_tried_again(
    stage: Stage, tmp_path: Path, limit_s: float, spoil: dict[str, Any], abort: str
) -> None:
    for name, value in spoil.items():
        setattr(stage.pilot, name, value)
    words, records = ended(replace(PLAN, time_limit_s=limit_s), tmp_path)
    assert words.startswith("the session ended at trial 1: ")
    assert [entry.number for entry in records] == [0] * PLAN.attempts
    assert all(entry.success is None for entry in records)
    for entry in records:
        assert re.fullmatch(abort, entry.abort)
    assert len({entry.bag for entry in records}) == PLAN.attempts  # nothing is overwritten


def test_a_policy_that_fails_has_failed(stage: Stage, tmp_path: Path) -> None:
    stage.pilot.health = {"policy": (ERROR, "the inference failed")}
    assert [entry.success for entry in run(PLAN, tmp_path)] == [False, False]


def test_a_silent_pilot_ends_the_session(stage: Stage, tmp_path: Path) -> None:
    stage.pilot.on_chunk = lambda: setattr(stage.pilot, "silent", True)
    words, (entry,) = ended(replace(PLAN, time_limit_s=30.0), tmp_path)
    assert entry.abort == "the pilot has been silent for 1 s"
    assert words.startswith("the session ended at trial 1: the pilot has been silent")


def test_an_arm_that_does_not_follow_never_starts(stage: Stage, tmp_path: Path) -> None:
    stage.robot.follows = False
    _, records = ended(PLAN, tmp_path)
    assert [entry.abort for entry in records] == [
        "panda_joint2 is at -0.4500 after the way to the start pose, expected -0.4000; see whether its controller runs "
        "and whether it is blocked"
    ] * PLAN.attempts
    assert "enabled" not in stage.pilot.log
    assert [entry.bag for entry in records] == ["", ""]


def test_a_start_pose_beyond_the_limits_is_refused_before_anything_moves(stage: Stage, tmp_path: Path) -> None:
    plan = replace(PLAN, start=replace(PLAN.start, positions=(0.0, -0.4, 0.0, 1.0, 0.0, 2.0, 0.8, 0.04)))
    with pytest.raises(BadValueError, match=r"^start\.positions in the plan is 1\.0; expected .* for panda_joint4$"):
        run(plan, tmp_path)
    assert stage.robot.commands == []


def test_success_that_was_there_before_is_none(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ros_trial, "ANSWER_TIMEOUT_S", 0.5)
    stage.scene.succeed(True)
    plan = replace(PLAN, scene=SceneConfig("none"), attempts=1)
    _, (entry,) = ended(plan, tmp_path)
    assert entry.abort == "success on sim_robot/success is true before the trial began; expected a latched false"
    assert "enabled" not in stage.pilot.log


def test_the_operator_lays_out_the_scene_and_judges(stage: Stage, tmp_path: Path) -> None:
    plan = replace(PLAN, scene=SceneConfig("operator", seed=3), success=SuccessConfig("operator"), time_limit_s=0.5)
    person = Person("", "", "yn", "r", "", "y", "", "n")
    with trials(plan, tmp_path, person) as (session, log):
        session.run()
        records = log.records
    assert [(entry.number, entry.success, entry.abort) for entry in records] == [
        (0, None, "run again by the operator"),
        (0, True, ""),
        (1, False, ""),
    ]
    question = "did it succeed? y: yes, n: no, r: run it again, a: end the session"
    assert person.heard[:4] == [
        f"lay out scene 3 for {order(plan)[0].instruction!r}, then press Enter; a: end the session",
        question,
        f"got ''; {question}",
        f"got 'yn'; {question}",
    ]


@pytest.mark.parametrize(("typed", "success"), [("y", True), ("n", False)])
def test_the_operator_need_not_wait_for_the_end(stage: Stage, tmp_path: Path, typed: str, success: bool) -> None:
    person = Person()
    stage.pilot.on_chunk = lambda: person.type(typed)
    with trials(replace(PLAN, success=SuccessConfig("operator"), time_limit_s=30.0), tmp_path, person) as (
        session,
        log,
    ):
        session.run()
        assert [entry.success for entry in log.records] == [success] * 2
        assert all(entry.seconds < 10 for entry in log.records)


def test_the_operator_ends_the_session(stage: Stage, tmp_path: Path) -> None:
    person = Person()
    stage.pilot.on_chunk = lambda: person.type("a")
    plan = replace(PLAN, success=SuccessConfig("operator"), time_limit_s=30.0)
    with trials(plan, tmp_path, person) as (session, log):
        with pytest.raises(SessionEndedError, match="ended by the operator"):
            session.run()
        (entry,) = log.records
    assert entry.abort == "ended by the operator"
    assert not stage.pilot.enabled


def test_a_terminal_that_closes_ends_the_session(stage: Stage, tmp_path: Path) -> None:
    person = Person()
    plan = replace(PLAN, success=SuccessConfig("operator"), time_limit_s=30.0)

    def leave() -> None:
        stage.pilot.on_chunk = lambda: None
        person.leave()

    stage.pilot.on_chunk = leave
    with trials(plan, tmp_path, person) as (session, _), pytest.raises(SessionEndedError, match="terminal has ended"):
        session.run()
    assert not stage.pilot.enabled


def test_ctrl_c_disables_the_pilot_and_the_next_session_goes_on(stage: Stage, tmp_path: Path) -> None:
    plan = replace(PLAN, trials=2)

    def interrupt() -> None:
        if stage.pilot.log.count("enabled") == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)  # impatience must not cut the cleaning up short

    stage.pilot.on_chunk = interrupt
    with trials(plan, tmp_path, Person()) as (session, log):
        with pytest.raises(KeyboardInterrupt):
            session.run()
        assert [(entry.number, entry.abort) for entry in log.records] == [(0, ""), (1, INTERRUPTED)]
    assert not stage.pilot.enabled
    assert stage.pilot.instruction == ""
    before = log.records
    stage.pilot.on_chunk = lambda: None
    records = run(plan, tmp_path)
    assert records[:2] == before
    assert [entry.number for entry in records[2:]] == [1, 2, 3]
    assert [entry.bag for entry in records] == [
        "bags/0000-0",
        "bags/0001-0",
        "bags/0001-1",
        "bags/0002-0",
        "bags/0003-0",
    ]
