"""The precision controller against the counters of the paper, and rule by rule."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaq_ros.control.precision import PrecisionController, PrecisionRule, rules
from vlaq_ros.datatypes import Motion
from vlaq_ros.errors import BadValueError, UnknownPrecisionError

RULES = (
    PrecisionRule("sixteen", 0.5),
    PrecisionRule("eight", 0.35),
    PrecisionRule("four", 0.2),
    PrecisionRule("two", 0.0),
)
NAMES = tuple(rule.name for rule in RULES)
ASKS = {"sixteen": 0.6, "eight": 0.4, "four": 0.3, "two": 0.1}  # a sensitivity that requests each
START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 20_000_000


def motion(sensitivity: float) -> Motion:
    return Motion(stamp_ns=0, motion_fineness=0, angular_jerk=0, sensitivity=sensitivity)


def controller(dwell_s: float = 0.1) -> PrecisionController:
    return PrecisionController(RULES, dwell_s)


def run(machine: PrecisionController, requests: list[str], start_ns: int = START_NS) -> list[str]:
    """Precisions in force after each request, one period apart."""
    return [machine.decide(motion(ASKS[name]), start_ns + i * PERIOD_NS).precision for i, name in enumerate(requests)]


def paper(requests: list[str], K: int) -> list[str]:
    """Algorithm 1, lines 3-10, letter by letter: (c, b_bar, b_star) over bit-widths."""
    bits = {"sixteen": 16, "eight": 8, "four": 4, "two": 2}
    name = {width: name for name, width in bits.items()}
    c, b_bar, b_star = 0, 16, 16
    served = []
    for b_hat in (bits[request] for request in requests):
        if b_hat >= b_star:
            b_star, c, b_bar = b_hat, 0, b_hat
        else:
            finest = max(b_hat, b_bar) if c > 0 else b_hat
            c = c + 1 if finest == b_bar else 1
            b_bar = finest
            if c == K:
                b_star, c = b_bar, 0
        served.append(name[b_star])
    return served


@given(st.lists(st.sampled_from(NAMES), max_size=60), st.integers(1, 7))
def test_at_a_fixed_period_it_is_the_papers_algorithm(requests: list[str], K: int) -> None:
    """K requests at a fixed period span K - 1 periods."""
    machine = controller(dwell_s=(K - 1) * PERIOD_NS * 1e-9)
    assert run(machine, requests) == paper(requests, K)


@given(st.lists(st.sampled_from(NAMES), min_size=1, max_size=60), st.integers(1, 7))
def test_a_drop_lands_on_the_finest_request_of_the_last_dwell(requests: list[str], K: int) -> None:
    served = run(controller(dwell_s=(K - 1) * PERIOD_NS * 1e-9), requests)
    for i in range(1, len(served)):
        if NAMES.index(served[i]) > NAMES.index(served[i - 1]):
            recent = requests[i - K + 1 : i + 1]
            assert len(recent) == K
            assert served[i] == min(recent, key=NAMES.index)


@given(st.lists(st.sampled_from(NAMES), max_size=60))
def test_it_is_never_coarser_than_what_is_asked_for(requests: list[str]) -> None:
    for served, request in zip(run(controller(), requests), requests, strict=True):
        assert NAMES.index(served) <= NAMES.index(request)


def test_it_starts_at_the_finest() -> None:
    assert run(controller(), ["two"]) == ["sixteen"]


def test_up_in_the_same_call() -> None:
    machine = controller()
    assert run(machine, ["two"] * 6)[-1] == "two"
    assert machine.decide(motion(ASKS["eight"]), START_NS + 10 * PERIOD_NS).precision == "eight"
    assert machine.decide(motion(ASKS["sixteen"]), START_NS + 10 * PERIOD_NS).precision == "sixteen"


def test_down_after_the_dwell_however_often_it_is_asked() -> None:
    for period_ns in (1_000_000, 20_000_000, 50_000_000):
        machine = controller(dwell_s=0.1)
        stamps = range(START_NS, START_NS + 300_000_000, period_ns)
        dropped = next(stamp for stamp in stamps if machine.decide(motion(0.1), stamp).precision == "two")
        assert dropped == START_NS + 100_000_000


def test_a_finer_but_still_lower_request_starts_the_dwell_again() -> None:
    """Dwell of five requests: the run of "two" is broken by "four", which is then where it lands."""
    requests = ["two"] * 4 + ["four"] + ["two"] * 4
    assert run(controller(dwell_s=0.08), requests) == ["sixteen"] * 8 + ["four"]


@pytest.mark.parametrize(
    ("sensitivity", "expected"), [(0.0, "two"), (0.2, "two"), (0.35, "four"), (0.5, "eight"), (0.500001, "sixteen")]
)
def test_a_precision_is_requested_above_its_threshold(sensitivity: float, expected: str) -> None:
    assert controller(dwell_s=0).decide(motion(sensitivity), START_NS).precision == expected


def test_unknown_motion_means_the_finest_at_once() -> None:
    machine = controller()
    assert run(machine, ["two"] * 6)[-1] == "two"
    decision = machine.decide(None, START_NS + 6 * PERIOD_NS)
    assert (decision.precision, decision.reason) == ("sixteen", "motion unknown")
    assert math.isnan(decision.sensitivity)


def test_a_backward_jump_of_time_returns_to_the_finest_and_forgets_the_dwell() -> None:
    machine = controller(dwell_s=0.1)
    assert run(machine, ["two"] * 6)[-1] == "two"
    assert run(machine, ["two"] * 6, START_NS - 10**12) == ["sixteen"] * 5 + ["two"]
    assert run(machine, ["two"] * 6, START_NS - 10**12 + 10**9) == ["two"] * 6


def test_fixed_answers_its_name_whatever_the_motion_and_release_starts_from_the_finest() -> None:
    machine = controller()
    assert run(machine, ["two"] * 6)[-1] == "two"
    machine.fix("four")
    assert run(machine, ["sixteen", "two", "sixteen"]) == ["four"] * 3
    decision = machine.decide(None, START_NS)
    assert (decision.precision, decision.reason) == ("four", "fixed")
    assert machine.decide(motion(0.25), START_NS).sensitivity == 0.25
    machine.fix(None)
    assert run(machine, ["two"]) == ["sixteen"]


def test_an_unknown_precision_cannot_be_fixed_and_changes_nothing() -> None:
    machine = controller()
    machine.fix("eight")
    with pytest.raises(UnknownPrecisionError) as caught:
        machine.fix("int8")
    assert str(caught.value) == "unknown precision 'int8'; this policy has: sixteen, eight, four, two"
    assert run(machine, ["two"]) == ["eight"]


def test_finer_follows_the_order_of_the_rules() -> None:
    machine = controller()
    assert machine.finer("sixteen", "two")
    assert not machine.finer("two", "sixteen")
    assert not machine.finer("four", "four")
    with pytest.raises(UnknownPrecisionError):
        machine.finer("four", "auto")


def test_a_policy_with_one_precision_always_runs_it() -> None:
    machine = PrecisionController((PrecisionRule("full", 0.9),), dwell_s=0.1)
    assert {machine.decide(motion(s), START_NS + i).precision for i, s in enumerate((0.0, 1.0, 0.5))} == {"full"}


def test_reasons_say_what_was_asked_for_and_what_it_waits_for() -> None:
    machine = controller(dwell_s=0.5)
    assert machine.decide(motion(0.62), START_NS).reason == "S = 0.62 asks for sixteen"
    machine.decide(motion(0.3), START_NS)
    waiting = machine.decide(motion(0.3), START_NS + 120_000_000)
    assert (waiting.precision, waiting.reason) == ("sixteen", "S = 0.30 asks for four, for 0.12 s of 0.50 s")
    dropped = machine.decide(motion(0.3), START_NS + 500_000_000)
    assert (dropped.precision, dropped.reason) == ("four", "S = 0.30 asks for four")


def serving(machine: PrecisionController, name: str) -> str:
    machine.fix(name)
    return machine.decide(None, 0).precision


def test_the_finest_that_is_left_takes_the_place_of_a_lost_precision() -> None:
    machine = controller()
    assert machine.lose("eight") == "sixteen"
    assert [serving(machine, name) for name in NAMES] == ["sixteen", "sixteen", "four", "two"]
    assert machine.lose("sixteen") == "four"
    assert [serving(machine, name) for name in NAMES] == ["four", "four", "four", "two"]
    machine.fix("eight")
    decision = machine.decide(None, 0)
    assert (decision.precision, decision.reason) == ("four", "fixed; eight is lost")
    machine.fix(None)
    assert run(machine, ["sixteen", "four", "two"]) == ["four", "four", "four"], "the motion asks; the rest is as is"


def test_nothing_is_lost_once_everything_is() -> None:
    machine = controller()
    assert [machine.lose(name) for name in ("four", "sixteen", "two", "eight")] == ["sixteen", "eight", "eight", ""]
    assert [serving(machine, name) for name in NAMES] == list(NAMES)
    with pytest.raises(UnknownPrecisionError):
        machine.lose("one")


def test_rules_are_those_of_the_plans_unless_others_are_given() -> None:
    assert rules(RULES, "") == RULES
    fine, coarse = rules(RULES[:2], "sixteen=0.42, eight=-1.5e-1")
    assert (fine, coarse) == (PrecisionRule("sixteen", 0.42), PrecisionRule("eight", -0.15))


@pytest.mark.parametrize(
    "thresholds",
    [
        "0.4,0.3",
        "sixteen=0.4",
        "sixteen=0.4,four=0.3",
        "eight=0.4,sixteen=0.3",
        "sixteen=0.3,eight=0.3",
        "sixteen=0.3,eight=nan",
        "sixteen=inf,eight=0",
        "sixteen=high,eight=0",
        "sixteen=0.4,eight=0.3,",
    ],
)
def test_thresholds_of_other_precisions_or_that_do_not_fall_are_refused(thresholds: str) -> None:
    with pytest.raises(BadValueError) as caught:
        rules(RULES[:2], thresholds)
    assert str(caught.value) == (
        f"thresholds in the pilot's parameters is {thresholds!r}; expected a falling number for each of sixteen, "
        "eight, such as sixteen=0.5"
    )
