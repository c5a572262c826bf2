"""One attempt: what ends it, what does not, and that an end is for good."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaq_ros.sim.attempt import SETTLING_NS, Attempt

LOOK_NS = 20_000_000
LOOKS = SETTLING_NS // LOOK_NS  # that a settling object may take


def run(looks: list[dict[str, bool]]) -> list[bool]:
    """Whether the attempt had failed after each look; what a look does not name is false."""
    attempt = Attempt()
    answer = []
    for k, look in enumerate(looks):
        attempt.look(k * LOOK_NS, **{"held": False, "success": False, "disturbed": False, "empty": False} | look)
        answer.append(attempt.failed)
    return answer


HELD, SUCCESS, NOTHING = {"held": True}, {"success": True}, dict[str, bool]()


def test_an_object_that_was_let_go_may_settle_for_so_long() -> None:
    answer = run([HELD, *[NOTHING] * (LOOKS + 5)])
    assert answer.index(True) == LOOKS + 1


def test_an_object_that_was_never_held_may_wait() -> None:
    assert not any(run([NOTHING] * 500))


def test_a_contact_that_flickers_is_no_loss() -> None:
    assert not any(run([HELD, *[NOTHING] * LOOKS] * 4))


def test_a_success_that_lasts_is_no_loss_and_one_that_ends_is() -> None:
    settled = [HELD, *[NOTHING] * 3, *[SUCCESS] * 100]
    assert not any(run(settled))
    answer = run([*settled, *[NOTHING] * (LOOKS + 5)])
    assert answer.index(True) == len(settled) + LOOKS


@pytest.mark.parametrize("mistake", ["disturbed", "empty"])
def test_a_mistake_ends_it_at_once_unless_the_task_is_done(mistake: str) -> None:
    assert run([NOTHING, {mistake: True}]) == [False, True]
    assert run([NOTHING, {mistake: True} | SUCCESS]) == [False, False]


looks = st.fixed_dictionaries({name: st.booleans() for name in ("held", "success", "disturbed", "empty")})


@given(st.lists(looks, max_size=60))
def test_a_failure_is_for_good(sequence: list[dict[str, bool]]) -> None:
    answer = run(sequence)
    assert answer == sorted(answer)
