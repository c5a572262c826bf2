"""An episode ends when success has lasted, when it cannot come any more, or when time is up, not before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vlaq_ros.evaluate.referee import Referee

TENTH_NS = 100_000_000
HELD = 3  # tenths of a second


def end_of(successes: list[bool], limit: int) -> int:
    """Step, in tenths of a second, at which a referee ends this episode."""
    referee = Referee(start_ns=7, limit_s=limit / 10)
    return next(k for k, success in enumerate(successes) if referee.over(success, False, 7 + k * TENTH_NS))


def test_success_must_last() -> None:
    flicker = [False, True, True, False] * 3
    assert end_of([*flicker, True, True, True, True, True], limit=1000) == len(flicker) + HELD


def test_time_is_up_without_success() -> None:
    assert end_of([False] * 100, limit=15) == 15


@given(st.lists(st.booleans(), min_size=50, max_size=50), st.integers(1, 40))
def test_the_end_is_the_first_of_both_reasons(successes: list[bool], limit: int) -> None:
    lasted = [k for k in range(HELD, len(successes)) if all(successes[k - HELD : k + 1])]
    assert end_of(successes, limit) == min([limit, *lasted])


def test_no_time_at_all_ends_at_once() -> None:
    assert Referee(5, 0.0).over(False, False, 5)
    assert not Referee(5, 1.0).over(True, False, 5)


def test_a_failure_ends_at_once() -> None:
    referee = Referee(5, 1.0)
    assert not referee.over(False, False, 6)
    assert referee.over(False, True, 7)
