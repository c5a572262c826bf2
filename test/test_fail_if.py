"""Conditions that fail a build: read, held against a report, and told in a sentence."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaq_ros.errors import ConditionError, UnknownScoreError
from vlaq_ros.replay.fail_if import numbers, parse

REPORT = {"ee_error_p95_m": 0.03, "rejected": 2, "gripper_delay_p95_s": None}


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("ee_error_p95_m > 0.02", "out/report.json: ee_error_p95_m is 0.03: ee_error_p95_m > 0.02"),
        ("ee_error_p95_m>.02", "out/report.json: ee_error_p95_m is 0.03: ee_error_p95_m > 0.02"),
        (" ee_error_p95_m  >=  3e-2 ", "out/report.json: ee_error_p95_m is 0.03: ee_error_p95_m >= 0.03"),
        ("ee_error_p95_m > 0.03", ""),
        ("ee_error_p95_m < 0.03", ""),
        ("ee_error_p95_m <= 0.03", "out/report.json: ee_error_p95_m is 0.03: ee_error_p95_m <= 0.03"),
        ("rejected == 2", "out/report.json: rejected is 2: rejected == 2"),
        ("rejected == -2", ""),
        (
            "gripper_delay_p95_s > 100",
            "out/report.json: gripper_delay_p95_s is not known, so --fail-if 'gripper_delay_p95_s > 100' cannot be "
            "answered and counts as true",
        ),
    ],
)
def test_a_condition_says_which_number_fails(text: str, failure: str) -> None:
    assert parse(text).failure(REPORT, "out/report.json") == failure


@pytest.mark.parametrize(
    "text",
    ["", "ee_error_p95_m", "ee_error_p95_m > ", "> 0.02", "0.02 < ee_error_p95_m", "rejected != 2", "rejected > x"],
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(ConditionError) as caught:
        parse(text)
    assert str(caught.value) == (
        f"got the condition {text!r}; expected a number of the report, one of > >= < <= ==, and what it is held "
        "against, such as 'ee_error_p95_m > 0.02'"
    )


@pytest.mark.parametrize("name", ["ee_eror_p95_m", "bag", "errors", "format_version"])
def test_a_name_that_no_report_has_is_refused_with_those_that_it_has(name: str) -> None:
    with pytest.raises(UnknownScoreError) as caught:
        parse(f"{name} > 0.02")
    assert str(caught.value) == f"a report has no number {name!r}; it has: {', '.join(numbers())}"
    assert {"ee_error_p95_m", "rejected"} <= set(numbers())


@given(st.floats(-1e6, 1e6), st.sampled_from([">", "<", ">=", "<=", "=="]))
def test_a_condition_can_be_written_and_read_again(limit: float, operator: str) -> None:
    condition = parse(f"ee_error_p95_m {operator} {limit!r}")
    assert condition == parse(f"{condition.name} {condition.operator} {condition.limit!r}")
    assert math.isclose(parse(str(condition)).limit, limit, rel_tol=1e-5, abs_tol=0)
