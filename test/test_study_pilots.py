"""Pilots: rules get the numbers at which they reach the share that they aim at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vlaq_ros.evaluate.rollout import Switching, own
from vlaq_ros.evaluate.switching import FineAfter, FineNear, Inverted, Random
from vlaq_ros.study.cells import ROLES, SHARES, Rule, Switch, plan
from vlaq_ros.study.pilots import Look, Pilot, fly
from vlaq_ros.study.variants import Emulated

PAIR, OTHER = plan(Emulated(4, 3)).pairs
S = np.linspace(0, 1, 101)


def episode(rule: Switching, thresholds: tuple[float, ...]) -> list[Look]:
    """Every S once, in a world where the pilot has no dwell; later chunks are nearer, and S is known but once."""
    coarse = thresholds[0] >= S if rule is own else np.arange(len(S)) % 2 == 0
    looks = [Look(float(s), 10 * float(s), 1 - float(s), bool(c)) for s, c in zip(S, coarse, strict=True)]
    return [*looks, Look(float("nan"), 5.0, 0.5, False)]


PILOT = fly(episode, 0.3)


def test_a_pilot_measures_the_share_that_thresholds_come_to() -> None:
    assert len(PILOT.sensitivities) == len(S)
    assert len(PILOT.times_s) == len(PILOT.gaps_m) == len(S) + 1
    assert PILOT.coarse_shares == pytest.approx(SHARES, abs=0.01)


@pytest.mark.parametrize("share", SHARES)
def test_every_rule_aims_at_the_share(share: float) -> None:
    dyq, random, inverted, time, phase = (PILOT.resolve(Switch(rule, share)) for rule in Rule)
    assert dyq.rule is own
    assert np.mean(dyq.thresholds[0] >= S) == pytest.approx(share, abs=0.02)
    assert random.rule == Random(*ROLES, share)
    assert inverted.rule == Inverted(*ROLES)
    assert np.mean(inverted.thresholds[0] < S) == pytest.approx(share, abs=0.02)
    assert isinstance(time.rule, FineAfter)
    assert np.mean(np.array(PILOT.times_s) < time.rule.time_s) == pytest.approx(share, abs=0.02)
    assert isinstance(phase.rule, FineNear)
    assert np.mean(np.array(PILOT.gaps_m) >= phase.rule.gap_m) == pytest.approx(share, abs=0.02)
    assert random.thresholds == time.thresholds == phase.thresholds == dyq.thresholds


def test_a_dwell_is_made_up_for() -> None:
    slow = Pilot(tuple(S), (0.0,), (1.0,), (0.1, 0.3, 0.6))  # coarse less often than it is asked for
    assert slow.resolve(Switch(Rule.DYQ, 0.5)).at == pytest.approx(0.5 + 0.25 * 2 / 3, abs=0.01)
    assert slow.resolve(Switch(Rule.INVERTED, 0.9)).at == pytest.approx(0.25, abs=0.01)


def test_a_threshold_stays_above_that_of_the_coarse_precision() -> None:
    resting = Pilot((0.0, 0.0, 0.0), (0.0,), (1.0,), SHARES)
    assert resting.resolve(Switch(Rule.DYQ, 0.5)).thresholds[0] > 0


def test_a_pilot_comes_back_for_its_own_pair_alone(tmp_path: Path) -> None:
    file = tmp_path / "pilots" / "a.json"
    assert Pilot.load(file, PAIR) is None
    PILOT.save(file, PAIR)
    assert Pilot.load(file, PAIR) == PILOT
    assert Pilot.load(file, OTHER) is None
