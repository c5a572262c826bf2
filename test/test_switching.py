"""Rules of who answers a chunk: what they name, and that the closed loop obeys them and nothing else changes."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaq_ros.config import PilotConfig, RobotConfig
from vlaq_ros.datatypes import Decision, Observation
from vlaq_ros.evaluate.rollout import Outcome, Request, Switching, own, play
from vlaq_ros.evaluate.switching import FineAfter, FineNear, Inverted, Random
from vlaq_ros.policy.engine import Engine


def request(
    *, seed: int = 0, index: int = 0, time_s: float = 0.0, decided: str = "fine", held: bool = False, gap_m: float = 1.0
) -> Request:
    return Request(
        seed=seed,
        index=index,
        time_s=time_s,
        observation=Observation(0, {}, (), np.zeros(0), "pick up the red cube"),
        noise=np.zeros((1, 1)),
        guide=None,
        decision=Decision(decided, 0.0, "as told"),
        motion=None,
        held=held,
        gap_m=gap_m,
    )


def test_the_pilots_own_and_its_inverse() -> None:
    inverted = Inverted("fine", "coarse")
    for decided, opposite in (("fine", "coarse"), ("coarse", "fine")):
        assert own(request(decided=decided)) == decided
        assert inverted(request(decided=decided)) == opposite


@given(st.integers(0, 100).map(lambda percent: percent / 100), st.integers(0, 2**31))
def test_a_coin_has_its_share_and_no_memory(share: float, seed: int) -> None:
    coin = Random("fine", "coarse", share)
    asked = [request(seed=seed + episode, index=index) for episode in range(20) for index in range(20)]
    thrown = [coin(one) for one in asked]
    assert thrown == [coin(one) for one in reversed(asked)][::-1]
    deviation = 5 * np.sqrt(share * (1 - share) / len(asked))  # one in two million leaves it by chance
    assert abs(thrown.count("coarse") / len(asked) - share) <= deviation


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_only_adds_coarse_chunks(one: float, other: float) -> None:
    less, more = (Random("fine", "coarse", share) for share in sorted((one, other)))
    assert all(more(request(index=k)) == "coarse" for k in range(50) if less(request(index=k)) == "coarse")


def test_the_clock_and_the_oracle() -> None:
    assert [FineAfter("fine", "coarse", 2.0)(request(time_s=t)) for t in (0.0, 1.9, 2.0, 5.0)] == [
        "coarse",
        "coarse",
        "fine",
        "fine",
    ]
    near = FineNear("fine", "coarse", gap_m=0.05)
    assert [near(request(gap_m=gap)) for gap in (0.01, 0.049, 0.05, 0.3)] == ["fine", "fine", "coarse", "coarse"]


@pytest.mark.parametrize(
    ("held", "gap_m", "phase"),
    [(False, 0.2, "reach"), (False, 0.02, "grasp"), (True, 0.2, "carry"), (True, 0.02, "place")],
)
def test_phases(held: bool, gap_m: float, phase: str) -> None:
    assert request(held=held, gap_m=gap_m).phase == phase


@pytest.fixture(scope="module")
def engine(tiny_bundle: Path) -> Engine:
    return Engine.load(tiny_bundle)


EPISODES = [(900_000, "pick up the red cube"), (900_001, "pick up the blue cube")]


def run(
    engine: Engine, switching: Switching = own, precision: str = "auto", thresholds: Sequence[float] | None = None
) -> list[Outcome]:
    config = PilotConfig(precision=precision)
    return list(
        play(
            engine,
            RobotConfig.load("sim_panda"),
            config,
            EPISODES,
            latency_s=0.1,
            limit_s=1.0,
            switching=switching,
            thresholds=thresholds,
        )
    )


def test_the_loop_obeys_and_hands_over_what_it_knows(engine: Engine) -> None:
    asked: list[Request] = []

    def alternate(now: Request) -> str:
        asked.append(now)
        return ("coarse", "fine")[now.index % 2]

    outcomes = run(engine, alternate)
    for outcome in outcomes:
        mine = [now for now in asked if now.seed == outcome.seed]
        assert outcome.precisions == tuple(("coarse", "fine")[k % 2] for k in range(len(mine)))
        assert [now.index for now in mine] == list(range(len(mine)))
        np.testing.assert_array_equal(outcome.times_s, [now.time_s for now in mine])
        np.testing.assert_array_equal(outcome.sensitivities, [now.decision.sensitivity for now in mine])
        assert outcome.times_s[0] == 0
        assert {now.phase for now in mine} == {"reach"}
        assert {now.observation.instruction for now in mine} == {outcome.instruction}


def test_a_chosen_precision_is_the_fixed_one(engine: Engine) -> None:
    for name in engine.precisions:
        chosen, fixed = run(engine, lambda _, name=name: name, precision="fine"), run(engine, precision=name)
        assert [outcome.precisions for outcome in chosen] == [outcome.precisions for outcome in fixed]
        for one, other in zip(chosen, fixed, strict=True):
            np.testing.assert_array_equal(one.joints, other.joints)


@pytest.mark.parametrize(("threshold", "name"), [(-1.0, "fine"), (1e9, "coarse")])
def test_thresholds_in_place_of_the_policys(engine: Engine, threshold: float, name: str) -> None:
    for outcome in run(engine, thresholds=(threshold, -2.0)):
        assert outcome.precisions[0] == "fine"  # a pilot starts with the finest
        settled = outcome.times_s > 0.5  # the dwell is over
        assert set(np.array(outcome.precisions)[settled]) == {name}


def test_rules_go_to_other_processes() -> None:
    rules = [
        own,
        Inverted("fine", "coarse"),
        Random("fine", "coarse", 0.3),
        FineAfter("fine", "coarse", 1.0),
        FineNear("fine", "coarse", 0.08),
    ]
    assert pickle.loads(pickle.dumps(rules)) == rules
