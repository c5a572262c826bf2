"""When a gripper passes the half of its opening, and how predicted crossings lie to recorded ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaq_ros.replay.crossings import Crossing, Crossings, opening, timing

SECOND = 1_000_000_000
LIMITS = np.array([0.0, 0.04])


def crossings(positions_m: list[float], period_ns: int = SECOND // 10) -> list[Crossing]:
    found = Crossings((0.0, 0.04))
    found.push(period_ns * np.arange(len(positions_m)), np.array(positions_m))
    return found.found


def test_a_crossing_is_where_the_line_between_two_positions_passes_the_half() -> None:
    assert crossings([0.04, 0.04, 0.0]) == [Crossing(SECOND * 3 // 20, opens=False)]
    assert crossings([0.0, 0.03, 0.04]) == [Crossing(round(SECOND / 15), opens=True)]


def test_what_trembles_about_the_half_does_not_cross_it() -> None:
    assert crossings([0.04, 0.021, 0.019, 0.021, 0.019, 0.022, 0.04]) == []
    (once,) = crossings([0.04, 0.021, 0.019, 0.021, 0.019, 0.0])
    assert once == Crossing(round(3.5 * SECOND / 10), opens=False)


@pytest.mark.parametrize("unknown", [[np.nan], []])
def test_what_happened_while_nothing_was_known_is_no_crossing(unknown: list[float]) -> None:
    found = Crossings((0.0, 0.04))
    found.push(np.array([0]), np.array([0.04]))
    found.push(SECOND // 10 * np.arange(1, 1 + len(unknown)), np.array(unknown))
    found.push(np.array([SECOND]), np.array([0.0]))
    assert found.found == []


def test_a_position_that_is_not_later_is_passed_over() -> None:
    found = Crossings((0.0, 0.04))
    found.push(np.array([0, 10, 5, 10]), np.array([0.04, 0.04, 0.0, 0.0]))
    assert found.found == []


@given(st.lists(st.floats(0, 0.04), max_size=40), st.integers(1, 39))
def test_pieces_give_what_the_whole_gives(positions_m: list[float], split: int) -> None:
    stamps_ns = SECOND // 10 * np.arange(len(positions_m))
    pieces = Crossings((0.0, 0.04))
    for part in (slice(0, split), slice(split, None)):
        pieces.push(stamps_ns[part], np.array(positions_m)[part])
    assert pieces.found == crossings(positions_m)
    assert all(a.opens != b.opens for a, b in zip(pieces.found, pieces.found[1:], strict=False))


def test_closed_and_open_are_what_was_recorded_where_the_gripper_moved() -> None:
    assert opening(np.array([0.04, 0.025, np.nan]), LIMITS) == (0.025, 0.04)  # closed on an object
    assert opening(np.array([0.04, 0.0399]), LIMITS) == (0.0, 0.04)
    assert opening(np.array([0.04, 0.0399]), np.array([-np.inf, np.inf])) == (0.0399, 0.04)
    assert opening(np.array([np.nan]), np.array([-np.inf, np.inf])) == (0.0, 0.0)


def test_the_nearest_crossings_of_one_direction_belong_together_and_each_once() -> None:
    recorded = [Crossing(10 * SECOND, opens=False), Crossing(20 * SECOND, opens=True)]
    predicted = [
        Crossing(SECOND * 98 // 10, opens=False),
        Crossing(SECOND * 101 // 10, opens=False),
        Crossing(SECOND * 201 // 10, opens=False),
    ]
    times = timing(recorded, predicted)
    np.testing.assert_allclose(times.delays_s, [0.1])
    assert (times.missed, times.extra) == (1, 2)
    assert timing(recorded, [Crossing(SECOND * 111 // 10, opens=False)]).missed == 2
