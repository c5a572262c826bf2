"""The report of trials, on records whose answer can be counted by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sources import ROOT

from vlaq_ros.evaluate.statistics import holm, mcnemar, wilson95
from vlaq_ros.evaluate.trial import ConditionConfig, TrialPlan, order
from vlaq_ros.evaluate.trial_log import Record, read
from vlaq_ros.evaluate.trial_report import draw, summary, tables

NAMES = ("auto", "fine", "coarse")
PLAN = replace(TrialPlan.load("sim"), trials=10, conditions={name: ConditionConfig(name) for name in NAMES})
# Of ten blocks: auto and fine differ in two, coarse loses six against both of which it wins none back.
OUTCOMES = {"auto": "++++++++-+", "fine": "+++++++++-", "coarse": "--+-+--+--"}


def records(outcomes: Mapping[str, str]) -> list[Record]:
    """A record for every + and - of a condition's blocks; a dot is a trial that is missing, an x one aborted."""
    made = []
    for trial in order(PLAN):
        outcome = outcomes[trial.condition][trial.block]
        if outcome == ".":
            continue
        made.append(
            Record(
                number=trial.number,
                block=trial.block,
                condition=trial.condition,
                instruction=trial.instruction,
                seed=trial.seed,
                stamp_ns=0,
                success={"+": True, "-": False, "x": None}[outcome],
                seconds=4.0 + trial.block if outcome == "+" else 15.0,
                abort="the arm is out of its start pose" if outcome == "x" else "",
                chunks={"coarse": 3, "fine": 1} if trial.condition == "auto" else {trial.condition: 4},
                latency_p50_ms=50.0 + trial.block,
                latency_p95_ms=None if outcome == "-" else 90.0,
                model="",
                bag="",
            )
        )
    return made


def test_summary_by_hand() -> None:
    said = summary(PLAN, records(OUTCOMES))
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert {key: said[key] for key in ("trials", "missing", "aborted")} == {"trials": 30, "missing": 0, "aborted": 0}
    assert said["conditions"]["auto"] == {
        "n": 10,
        "successes": 9,
        "wilson95": [round(end, 4) for end in wilson95(9, 10)],
        "success_s": 8.0,  # the median of 4..11 and 13
        "precision_share": {"coarse": 0.75, "fine": 0.25},
        "latency_ms": {"p50": 54.5, "p95": 90.0},
        "aborted": 0,
    }
    ps = [1.0, 2 * 0.5**6, 2 * 0.5**6]
    assert [pair["p"] for pair in said["pairs"]] == pytest.approx(ps, rel=1e-2)
    assert [pair["p_holm"] for pair in said["pairs"]] == pytest.approx(holm(ps), rel=1e-2)
    assert said["pairs"][1] == {
        "first": "auto",
        "second": "coarse",
        "n": 10,
        "only_first": 6,
        "only_second": 0,
        "difference": 0.6,
        "p": 0.0312,
        "p_holm": 0.0938,
    }


def test_aborted_and_missing_trials_are_no_failures() -> None:
    said = summary(PLAN, records({"auto": "+++++.....", "fine": "..++++++++", "coarse": "xx........"}))
    assert (said["trials"], said["missing"], said["aborted"]) == (13, 17, 2)
    assert said["conditions"]["coarse"] == {
        "n": 0,
        "successes": 0,
        "wilson95": [],
        "success_s": None,
        "precision_share": {},
        "latency_ms": {"p50": None, "p95": None},
        "aborted": 2,
    }
    (pair,) = said["pairs"]  # coarse shares no block with anyone
    assert (pair["first"], pair["second"], pair["n"]) == ("auto", "fine", 3)


def test_nothing_yet() -> None:
    said = summary(PLAN, [])
    assert (said["trials"], said["missing"], said["pairs"]) == (0, 30, [])
    assert "| auto | 0 | — | — | — | — | — / — | 0 |" in tables(PLAN, [])


@given(st.tuples(*[st.text("+-.x", min_size=10, max_size=10)] * 3))
def test_pairs_are_counted_where_both_have_a_result(outcomes: tuple[str, str, str]) -> None:
    said = summary(PLAN, records(dict(zip(NAMES, outcomes, strict=True))))
    table = dict(zip(NAMES, outcomes, strict=True))
    assert said["trials"] + said["missing"] == 30
    for pair in said["pairs"]:
        both = [
            (a == "+", b == "+")
            for a, b in zip(table[pair["first"]], table[pair["second"]], strict=True)
            if a in "+-" and b in "+-"
        ]
        first, second = np.array(both).T
        expected = mcnemar(first, second)
        assert pair["n"] == len(both)
        assert (pair["only_first"], pair["only_second"]) == (expected.only_first, expected.only_second)
        assert pair["p"] == pytest.approx(expected.p_value, rel=1e-2)
        assert pair["p"] <= pair["p_holm"] <= 1.0


def test_tables() -> None:
    text = tables(PLAN, records({**OUTCOMES, "coarse": "--+-+--+xx"}))
    assert text == (
        "| condition | trials | success | Wilson 95 % | median time to success | precision of chunks | "
        "inference p50 / p95 | aborted |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
        "| auto | 10 | 9 (90%) | 60% to 98% | 8 s | coarse 75%, fine 25% | 54.5 ms / 90 ms | 0 |\n"
        "| fine | 10 | 9 (90%) | 60% to 98% | 8 s | fine 100% | 54.5 ms / 90 ms | 0 |\n"
        "| coarse | 8 | 3 (38%) | 14% to 69% | 8 s | coarse 100% | 53.5 ms / 90 ms | 2 |\n"
        "\n"
        "| pair | blocks | only the first / only the second succeeds | difference of success | p (McNemar) | "
        "p (Holm) |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| auto, fine | 10 | 1 / 1 | +0.0 points | 1 | 1 |\n"
        "| auto, coarse | 8 | 5 / 0 | +62.5 points | 0.0625 | 0.188 |\n"
        "| fine, coarse | 8 | 5 / 0 | +62.5 points | 0.0625 | 0.188 |\n"
        "\n"
        "Aborted, and not counted:\n"
        "\n"
        "- coarse: the arm is out of its start pose (2 times)\n"
    )


def test_the_figure_shows_every_condition_and_is_the_same_for_the_same_records(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.svg" for number in range(2)]
    for path in paths:
        draw(PLAN, records({**OUTCOMES, "coarse": "--+-x.+x--"}), path)
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    draw(PLAN, records(OUTCOMES), paths[1])
    assert paths[1].read_bytes() != first


def test_the_report_in_the_docs_is_of_the_record_beside_it() -> None:
    plan, docs = TrialPlan.load("two_bundles"), ROOT / "docs/trial"
    record = read(docs, plan)
    assert len(record) > summary(plan, record)["trials"] == len(order(plan)) >= 40
    assert (docs / "report/tables.md").read_text() == tables(plan, record)
    assert tables(plan, record) in (ROOT / "docs/trial.md").read_text()
    assert json.loads((docs / "report/summary.json").read_text()) == summary(plan, record)
