"""The record of trials: what a crash, a second process or another plan can do to it."""

from __future__ import annotations

import json
import resource
import signal
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaq_ros.errors import NoTrialsError, OtherPlanError, TrialRecordError, TrialsRunningError
from vlaq_ros.evaluate import trial_log
from vlaq_ros.evaluate.trial import Trial, TrialPlan, order
from vlaq_ros.evaluate.trial_log import Record, TrialLog, missing

PLAN = replace(TrialPlan.load("sim"), trials=3)


def record(trial: Trial, success: bool | None = True, abort: str = "") -> Record:
    return Record(
        number=trial.number,
        block=trial.block,
        condition=trial.condition,
        instruction=trial.instruction,
        seed=trial.seed,
        stamp_ns=1_700_000_000_000_000_000 + trial.number,
        success=success,
        seconds=3.25,
        abort=abort,
        chunks={"fine": 10, "coarse": 3},
        latency_p50_ms=40.5,
        latency_p95_ms=61.0,
        model="tabletop_pi0_calibrated",
        bag=f"bags/{trial.number:04}-0",
    )


def test_what_is_added_is_read_back(tmp_path: Path) -> None:
    trials = order(PLAN)
    with TrialLog(tmp_path, PLAN) as log:
        log.add(record(trials[0], success=False))
        log.add(record(trials[1], success=None, abort="the emergency stop is pressed"))
        log.add(replace(record(trials[1]), chunks={}, latency_p50_ms=None, latency_p95_ms=None, instruction="größer"))
        records = log.records
    assert trial_log.read(tmp_path, PLAN) == records
    head, *lines = trial_log.path(tmp_path).read_text(encoding="utf-8").splitlines()
    assert json.loads(head)["order"][0] == [trials[0].instruction, trials[0].condition]
    assert [json.loads(line) for line in lines] == [asdict(record) for record in records]


def test_an_aborted_trial_is_missing_still(tmp_path: Path) -> None:
    trials = order(PLAN)
    with TrialLog(tmp_path, PLAN) as log:
        log.add(record(trials[0], success=None, abort="the node pilot died"))
        assert list(missing(PLAN, log.records)) == list(trials)
        log.add(record(trials[0], success=False))
        assert list(missing(PLAN, log.records)) == list(trials[1:])


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1500)), max_size=4))
def test_a_session_goes_on_wherever_it_stopped(sessions: list[tuple[int, int]]) -> None:
    """Some trials in every session, then a crash that leaves off any bytes of what was written last."""
    with tempfile.TemporaryDirectory() as directory:
        out, file = Path(directory), trial_log.path(Path(directory))
        whole: list[bytes] = []
        for count, lost in [*sessions, (len(order(PLAN)), 0)]:
            with TrialLog(out, PLAN) as log:
                assert file.read_bytes().splitlines(keepends=True)[: len(whole)] == whole
                assert len(log.records) == max(len(whole) - 1, 0)
                left = list(missing(PLAN, log.records))
                done = [entry.number for entry in log.records if entry.success is not None]
                assert done + [trial.number for trial in left] == list(range(len(order(PLAN))))
                for trial in left[:count]:
                    if trial.block == 1:
                        log.add(record(trial, success=None, abort="the arm is out of its start pose"))
                    log.add(record(trial))
            text = file.read_bytes()
            file.write_bytes(text[: len(text) - lost])
            whole = [line for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        assert [entry.number for entry in trial_log.read(out, PLAN) if entry.success] == list(range(len(order(PLAN))))


def test_a_full_disk_keeps_what_is_whole(tmp_path: Path) -> None:
    """The kernel's limit of a file's size stands in for a disk's."""
    trials, limits = order(PLAN), resource.getrlimit(resource.RLIMIT_FSIZE)
    file = trial_log.path(tmp_path)
    with TrialLog(tmp_path, PLAN) as log:
        log.add(record(trials[0]))
        whole = file.read_bytes()
        kernel = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, limits[1]))
        try:
            with pytest.raises(OSError, match="No space left on device"):
                log.add(record(trials[1]))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, kernel)
        assert len(log.records) == 1
    assert len(file.read_bytes()) == len(whole) + 20
    with TrialLog(tmp_path, PLAN) as log:
        assert file.read_bytes() == whole
        log.add(record(trials[1]))
    assert [entry.number for entry in trial_log.read(tmp_path, PLAN)] == [0, 1]


def test_a_reader_passes_over_a_line_that_is_being_written(tmp_path: Path) -> None:
    with TrialLog(tmp_path, PLAN) as log:
        log.add(record(order(PLAN)[0]))
    file = trial_log.path(tmp_path)
    before = file.read_bytes()
    file.write_bytes(before + b'{"number": 1, "blo')
    assert len(trial_log.read(tmp_path, PLAN)) == 1
    assert file.read_bytes() == before + b'{"number": 1, "blo'  # reading changes nothing


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (replace(PLAN, time_limit_s=20.0), "another time_limit_s"),
        (replace(PLAN, trials=4), "another trials, another order"),
        (replace(PLAN, seed=PLAN.seed + 1), "another seed, another order"),
        (replace(PLAN, start=replace(PLAN.start, tolerance_rad=0.5)), "another start"),
    ],
)
def test_a_changed_plan_is_refused_and_nothing_is_written(tmp_path: Path, changed: TrialPlan, said: str) -> None:
    with TrialLog(tmp_path, PLAN) as log:
        log.add(record(order(PLAN)[0]))
    before = trial_log.path(tmp_path).read_bytes()
    for attempt in (lambda: TrialLog(tmp_path, changed), lambda: trial_log.read(tmp_path, changed)):
        with pytest.raises(OtherPlanError) as refusal:
            attempt()
        assert str(refusal.value) == (
            f"the trials in '{tmp_path / 'trials.jsonl'}' were run under {said}; "
            "restore the plan to go on with them, or give another --out to begin anew"
        )
    assert trial_log.path(tmp_path).read_bytes() == before


def test_a_plan_that_only_its_order_has_changed_is_refused(tmp_path: Path) -> None:
    swapped = replace(PLAN, conditions=dict(reversed(PLAN.conditions.items())))
    assert {trial.condition for trial in order(swapped)} == {trial.condition for trial in order(PLAN)}
    with TrialLog(tmp_path, PLAN):
        pass
    with pytest.raises(OtherPlanError, match="under another order;"):
        TrialLog(tmp_path, swapped)


def test_one_session_at_a_time(tmp_path: Path) -> None:
    with TrialLog(tmp_path, PLAN):
        with pytest.raises(TrialsRunningError) as refusal:
            TrialLog(tmp_path, PLAN)
        assert trial_log.read(tmp_path, PLAN) == ()  # a reader is no rival
    assert str(refusal.value) == (
        f"another `vlaq trial` adds to '{tmp_path / 'trials.jsonl'}' now; expected one at a time: wait for it, or give "
        "another --out"
    )
    with TrialLog(tmp_path, PLAN):
        pass


def test_no_record(tmp_path: Path) -> None:
    with pytest.raises(NoTrialsError) as refusal:
        trial_log.read(tmp_path, PLAN)
    assert str(refusal.value) == (
        f"'{tmp_path}' holds no trials; run `vlaq trial` without --report first, or correct --out"
    )


@pytest.mark.parametrize(
    ("line", "why"),
    [("{", "Expecting property name enclosed in double quotes"), ("3", "it is no JSON object"), ("{}", "missing")],
)
def test_a_line_that_is_no_record(tmp_path: Path, line: str, why: str) -> None:
    with TrialLog(tmp_path, PLAN):
        pass
    file = trial_log.path(tmp_path)
    before = file.read_text() + line + "\n"
    file.write_text(before)
    with pytest.raises(TrialRecordError) as refusal:
        TrialLog(tmp_path, PLAN)
    assert str(refusal.value).startswith(f"line 2 of {str(file)!r} is no record of a trial (")
    assert why in str(refusal.value)
    assert file.read_text() == before
