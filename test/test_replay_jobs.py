"""Bags replayed one after the other and beside each other, and what ends one of them."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bag_writer import START, text, write
from replayable import ROBOT, entries, record

from vlaq_ros.config import JointConfig, PilotConfig
from vlaq_ros.evaluate.parallel import workers
from vlaq_ros.replay.jobs import replay_all
from vlaq_ros.replay.plan import Plan, Replayed
from vlaq_ros.replay.policies import Policies
from vlaq_ros.session import Session

MEASURED = {"inference_p50_s", "inference_p95_s", "inference_s"}  # other numbers come out the same every time


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("bags") / "whole")


@pytest.fixture
def plan(tiny_bundle: Path) -> Plan:
    return Plan(
        policies=Policies.choose("fine,coarse", tiny_bundle, None),
        robot=ROBOT,
        namespace="",
        instruction="",
        urdf="",
        thresholds="",
        latency=None,
        conditions=(),
        bound_m=None,
        annotate=False,
    )


def replayed(
    plan: Plan, places: dict[Path, Path], pool: Executor | None = None, advance: Callable[[float], object] = float
) -> dict[Path, Replayed]:
    return {result.bag: result for result in replay_all(plan, places, pool, advance)}


def repeatable(document: Any) -> str:
    return json.dumps({name: value for name, value in document.items() if name not in MEASURED})


def test_a_bag_becomes_a_report(plan: Plan, bag: Path, tmp_path: Path) -> None:
    done_s: list[float] = []
    result = replayed(plan, {bag: tmp_path / "out"}, advance=done_s.append)[bag]
    assert (result.fault, result.stopped) == ("", False)
    assert json.loads((tmp_path / "out/report.json").read_text()) == result.document
    assert result.document["n_answers"] > 3
    assert {"report.html", "timeline.png"} < {path.name for path in (tmp_path / "out").iterdir()}
    assert sum(done_s) == pytest.approx(result.document["bag_s"], abs=1e-6)


def test_a_bag_that_cannot_be_replayed_ends_no_other(plan: Plan, bag: Path, tmp_path: Path) -> None:
    bad, missing = record(tmp_path / "bad", "/camera/wrist/image_raw"), tmp_path / "missing"
    places = {path: tmp_path / "out" / path.name for path in (bad, missing, bag)}
    results = replayed(plan, places)
    assert list(results) == [bad, missing, bag]
    assert results[bad].fault.startswith(f"bag {str(bad)!r} has no sensor_msgs/msg/Image on /camera/wrist/image_raw")
    assert results[missing].fault.startswith(f"bag {str(missing)!r} cannot be read")
    assert results[bag].document
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["whole"]


def test_the_recorded_pilots_configuration_is_flown_with_what_is_asked_for(
    plan: Plan, bag: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    said = Session.of(PilotConfig(replan_period_s=1.0, thresholds="fine=0.9,coarse=0.1"), tiny_bundle).text()
    notes = [text(START, said, "/pilot/session"), text(START, "what follows is not read", "/pilot/journal")]
    noted = write(tmp_path / "noted", [*entries(), *notes])
    coarse = replace(plan, policies=Policies.choose("coarse", tiny_bundle, None))
    results = replayed(coarse, {bag: tmp_path / "without", noted: tmp_path / "with"})
    without, with_session = (results[path].document for path in (bag, noted))
    assert with_session["n_answers"] < without["n_answers"] / 2
    assert with_session["thresholds"] == {"fine": 0.9, "coarse": 0.1}
    assert "Every command comes 0.1 s after its inference begins" in with_session["lines"]


def test_a_wrong_unit_is_said(plan: Plan, bag: Path, tmp_path: Path) -> None:
    degrees = {"panda_joint6": JointConfig(scale=57.3)}  # measured in rad, and taken for something else
    wrong = replace(plan, robot=replace(ROBOT, joints=degrees))
    lines = replayed(wrong, {bag: tmp_path / "out"})[bag].document["lines"]
    said = [line for line in lines if "beyond its limits" in line]
    assert said == [
        "panda_joint6 was measured at 115, far beyond its limits -0.0175 to 3.75, in rad or m: correct its unit or sign"
        " in the robot file"
    ]


def test_processes_and_this_one_say_the_same(plan: Plan, bag: Path, tmp_path: Path) -> None:
    bad = record(tmp_path / "bad", "/joint_states")
    here = replayed(plan, {bag: tmp_path / "here"})[bag]
    pool = workers(1)
    try:
        results = replayed(plan, {bag: tmp_path / "there", bad: tmp_path / "bad_out"}, pool)
    finally:
        pool.shutdown()
    assert repeatable(results[bag].document) == repeatable(here.document)
    assert "/joint_states" in results[bad].fault


class Dying(Executor):
    """Its process ends with the call."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        del fn, args, kwargs
        future: Future[Any] = Future()
        future.set_exception(BrokenProcessPool("a child process terminated abruptly"))
        return future


def test_a_process_that_is_gone_is_told(plan: Plan, bag: Path, tmp_path: Path) -> None:
    assert replayed(plan, {bag: tmp_path / "out"}, Dying())[bag].fault == (
        f"the process that replayed bag {str(bag)!r} ended before it was done; expected a report: most often memory "
        "was short: give fewer --jobs"
    )


def test_ctrl_c_reports_what_is_done_and_begins_nothing_more(plan: Plan, bag: Path, tmp_path: Path) -> None:
    other = record(tmp_path / "other")
    before = signal.getsignal(signal.SIGINT)
    results = replayed(
        plan, {bag: tmp_path / "out", other: tmp_path / "never"}, advance=lambda _: signal.raise_signal(signal.SIGINT)
    )
    assert list(results) == [bag]
    assert results[bag].stopped
    assert 0.9 < results[bag].document["replayed_s"] < 2.0 < results[bag].document["bag_s"]
    assert "The replay was interrupted: this is what there was until then" in results[bag].document["lines"]
    assert (tmp_path / "out/report.html").is_file()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.fixture
def heeded() -> Iterator[None]:
    """Ctrl-C raises, wherever the tests run: in the background it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded")
def test_a_second_ctrl_c_ends_it_at_once(plan: Plan, bag: Path, tmp_path: Path) -> None:
    def press_twice(_: float) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        replayed(plan, {bag: tmp_path / "out"}, advance=press_twice)
    assert not (tmp_path / "out/report.json").exists()


def test_a_report_that_cannot_be_written_is_told(plan: Plan, bag: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fault = replayed(plan, {bag: tmp_path / "file"})[bag].fault
    assert fault.startswith(f"{str(tmp_path / 'file')!r} cannot be written (")
    assert fault.endswith("expected room and the right to write there: see to it, or give another --out")
