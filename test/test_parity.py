"""What a replay's events are held against, and what counts as a difference."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bag_writer import SECOND, START, Entry, image, joint_state, text, trajectory, write

from vlaq_ros.bags.reference import Reference
from vlaq_ros.bags.topics import Topics
from vlaq_ros.config import RobotConfig
from vlaq_ros.datatypes import Decision, Motion, Trajectory
from vlaq_ros.joints import JointMap
from vlaq_ros.journal import Journal, Land, Tick
from vlaq_ros.replay.parity import Parity
from vlaq_ros.replay.replayed import Held, Look

ROBOT = RobotConfig.load("sim_panda")
NAMES = ROBOT.joint_names
TOPICS = Topics.of(ROBOT, ("front",))
TIMES_S = (0.05, 0.5)
POSITIONS = np.array([np.full(8, 0.01), np.full(8, 0.02)])
SENT = Trajectory(START + SECOND, NAMES, np.array([SECOND // 20, SECOND // 2]), POSITIONS)


def parity(path: Path, *sensitivities: float | None) -> Parity:
    """Of a bag with one command, and of ticks every 20 ms that decided on fine."""
    said: list[Entry] = [joint_state(START + k * SECOND // 50, NAMES, np.zeros(8)) for k in range(100)]
    said += [image(START + k * SECOND // 20, TOPICS.cameras["front"], np.zeros((4, 4, 3), np.uint8)) for k in range(40)]
    said.append(trajectory(START + SECOND, TOPICS.arm, NAMES, TIMES_S, POSITIONS, stamp_ns=START + SECOND))
    journal = Journal(lambda page: said.append(text(START + SECOND, page, TOPICS.journal)))
    for nth, sensitivity in enumerate(sensitivities):
        journal.note(Tick(stamp(nth), 0, {}, 0, "", True, "auto", "fine", sensitivity, False))
    journal.note(Land(stamp(len(sensitivities))))
    bag = write(path / "bag", said)
    return Parity(bag, Reference.read(bag, TOPICS, JointMap.whole(ROBOT)), TOPICS)


def stamp(nth: int) -> int:
    return START + nth * SECOND // 50


def look(nth: int, sensitivity: float | None, precision: str = "fine") -> Look:
    motion = None if sensitivity is None else Motion(stamp(nth), 0.0, 0.0, sensitivity)
    decision = Decision(precision, math.nan if sensitivity is None else sensitivity, "")
    return Look(stamp(nth), None, decision, motion, (), 0.0, "")


def test_a_command_is_compared_with_the_one_of_its_stamp(tmp_path: Path) -> None:
    compared = parity(tmp_path, None)
    compared.take(Held(0, SENT))
    assert (compared.recorded, compared.commands, compared.unmatched) == (1, 1, 0)
    assert compared.largest < 1e-9
    compared.take(Held(0, replace(SENT, positions=POSITIONS + 3e-4)))
    assert compared.largest == pytest.approx(3e-4)
    compared.take(Held(0, replace(SENT, stamp_ns=SENT.stamp_ns + 1)))
    assert (compared.commands, compared.unmatched) == (2, 1)
    compared.take(Held(0, replace(SENT, times_ns=SENT.times_ns[:1], positions=POSITIONS[:1])))
    assert compared.largest == math.inf


def test_a_decision_is_its_precision_and_what_it_was_made_of(tmp_path: Path) -> None:
    compared = parity(tmp_path, 0.5, 0.5, 0.5, None, 0.5)
    for event in (look(0, 0.5), look(1, 0.5 + 1e-9), look(2, 0.5, "coarse"), look(3, None), look(4, 0.6)):
        compared.take(event)
    assert (compared.decisions, compared.decisions_equal) == (5, 3)


def test_what_the_recording_does_not_reach_back_to_is_not_compared(tmp_path: Path) -> None:
    compared = parity(tmp_path, 0.5, 0.5, 0.5, 0.5)
    for event in (look(0, None), look(1, None), look(2, 0.5), look(3, None)):
        compared.take(event)
    assert (compared.decisions, compared.decisions_equal) == (2, 1)
