"""Drawing moments: as even as there are moments, by the seed alone, and phases that follow from the motion."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaq_ros.calibrate.draw import FAST, GRIPPER, SLOW, Moment, draw, phases_of
from vlaq_ros.errors import TooFewObservationsError

SCALE = np.array([0.1, 0.01])  # an arm of one joint, and its gripper
STEP_NS = 200_000_000


def episode(name: str, arm: list[float], gripper: list[float], instruction: str = "a") -> list[Moment]:
    positions = np.column_stack([arm, gripper])
    return [Moment(name, k * STEP_NS, row, instruction) for k, row in enumerate(positions)]


def test_phases_follow_from_the_motion() -> None:
    arm = [0.0, 0.0, 0.0, 0.1, 0.2, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3]
    gripper = [0.04] * 8 + [0.02, 0.01, 0.01]
    assert phases_of(episode("x", arm, gripper), SCALE) == [
        *(SLOW, SLOW, FAST, FAST, FAST, FAST, SLOW),  # half a step before and after it moves
        *(GRIPPER, GRIPPER, GRIPPER, SLOW),
    ]


def test_nothing_moves_between_two_episodes() -> None:
    standing = [episode(name, [value] * 3, [value] * 3) for name, value in (("x", 0.0), ("y", 1.0), ("z", 2.0))]
    assert phases_of([moment for one in standing for moment in one], SCALE) == [SLOW] * 9
    assert phases_of([one[0] for one in standing], SCALE) == [SLOW] * 3  # of a single moment no speed is known


def test_an_arm_whose_gripper_always_moves_has_one_phase() -> None:
    assert phases_of(episode("x", [0.0, 1.0, 2.0], [0.0, 0.1, 0.2]), SCALE) == [GRIPPER] * 3


recordings = st.lists(
    st.tuples(st.sampled_from("abc"), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1)),
    min_size=1,
    max_size=8,
)


@given(recordings, st.integers(1, 40), st.integers(0, 2**32))
def test_every_draw_is_as_even_as_there_are_moments(
    recorded: list[tuple[str, list[tuple[int, int]]]], count: int, seed: int
) -> None:
    moments = [
        moment
        for number, (instruction, rows) in enumerate(recorded)
        for moment in episode(str(number), [0.1 * a for a, _ in rows], [0.01 * g for _, g in rows], instruction)
    ]
    count = min(count, len(moments))
    chosen = draw(moments, SCALE, count, seed, "x")
    assert list(chosen) == sorted(chosen)
    assert len(chosen) == count
    assert chosen == draw(moments, SCALE, count, seed, "x")
    phases = phases_of(moments, SCALE)
    assert all(phases[row] == phase for row, phase in chosen.items())

    def assert_even(taken: Counter[str], there: Counter[str]) -> None:
        most = max(taken.values(), default=0)
        assert all(taken[kind] >= min(most - 1, there[kind]) for kind in there)

    assert_even(Counter(moments[row].instruction for row in chosen), Counter(moment.instruction for moment in moments))
    for instruction in {moment.instruction for moment in moments}:
        own = [row for row, moment in enumerate(moments) if moment.instruction == instruction]
        assert_even(Counter(phases[row] for row in own if row in chosen), Counter(phases[row] for row in own))


def test_another_seed_draws_others_from_all_the_time() -> None:
    moments = episode("x", [0.0] * 1000, [0.0] * 1000)
    first, other = (list(draw(moments, SCALE, 100, seed, "x")) for seed in (0, 1))
    assert first != other
    assert np.histogram(first, 5, (0, 1000))[0].min() > 5


def test_too_few_moments_are_told() -> None:
    with pytest.raises(TooFewObservationsError) as mistake:
        draw(episode("x", [0.0] * 3, [0.0] * 3), SCALE, 4, 0, "bag monday")
    assert str(mistake.value) == ("bag monday gives 3 observations, expected at least 4; record more, or ask for fewer")
