"""`vlaq replay` from the words of the command line to its files, its last line and its exit code."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from bag_writer import write
from replayable import SECONDS, TASK, entries, record
from rich.progress import Progress

from vlaq_ros.cli.main import main
from vlaq_ros.control.precision import rules
from vlaq_ros.policy.manifest import Manifest
from vlaq_ros.replay.fail_if import numbers
from vlaq_ros.sim import panda


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("bags") / "whole")


@pytest.fixture
def replay(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command into tmp_path/out: its exit code, what it printed, and the error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        options = ["--model", tiny_bundle, "--out", tmp_path / "out", *arguments]
        code = main(["replay", *map(str, options)])
        return code, *capsys.readouterr()

    return run


def last(printed: str) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return said


def test_a_bag_becomes_a_report_and_a_line_of_numbers(replay: Any, bag: Path, tmp_path: Path) -> None:
    code, printed, error = replay(bag, "--annotate")
    out = tmp_path / "out"
    assert (code, error) == (0, "")
    report = json.loads((out / "report.json").read_text())
    said = last(printed)
    assert said.pop("artifacts") == [
        str(out / name) for name in ("report.json", "report.html", "timeline.png", "annotated")
    ]
    assert said.pop("failing") == []
    assert said == {name: report[name] for name in numbers()}
    assert said["replayed_s"] > SECONDS - 0.2
    assert "Every command comes 0.1 s after its inference begins" in printed
    assert f"{bag}: 3 of 3 s replayed; {out / 'report.html'}" in printed


def test_what_fails_is_said_and_ends_with_one(replay: Any, bag: Path, tmp_path: Path) -> None:
    code, printed, _ = replay(bag, "--fail-if", "n_answers > 1", "--fail-if", "bag_s > 60")
    (failing,) = last(printed)["failing"]
    answers = last(printed)["n_answers"]
    assert code == 1
    assert failing == f"{tmp_path / 'out/report.json'}: n_answers is {answers}: n_answers > 1"
    assert failing in printed.splitlines()
    assert "n_answers &gt; 1" in (tmp_path / "out/report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--fail-if", "speed > 3"], "a report has no number 'speed'; it has: "),
        (["--fail-if", "bag_s is long"], "got the condition 'bag_s is long'; expected a number of the report"),
        (["--precision", "finest"], "unknown precision 'finest'; this policy has: all, auto, fine, coarse, full"),
        (["--robot", "nobody"], "robot file '"),
        (["--urdf", "nowhere.urdf"], "the robot description cannot be used: [Errno 2]"),
        (["--fit-thresholds", "0.01"], "thresholds are fitted to precisions that answer the same observations, and"),
        (["--latency", "recorded"], "bag '"),
    ],
)
def test_a_users_mistake_is_a_sentence(replay: Any, bag: Path, tmp_path: Path, arguments: list[str], why: str) -> None:
    code, _, error = replay(bag, *arguments)
    assert code == 2
    assert error.startswith(f"vlaq replay: {why}")
    assert error.count("\n") == 1
    assert not (tmp_path / "out/report.json").exists()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--latency", "soon"], "argument --latency: got 'soon', expected 0 to 10 s, recorded or measured"),
        (["--latency", "11"], "argument --latency: got '11', expected 0 to 10 s, recorded or measured"),
        (["--fit-thresholds", "0"], "argument --fit-thresholds: got '0', expected a length above 0 and up to 1 m"),
        (["--jobs", "2", "--ray", "local"], "argument --ray: not allowed with argument --jobs"),
    ],
)
def test_arguments_that_cannot_be_parsed(
    replay: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], why: str
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        replay("bag", *arguments)
    assert exit_info.value.code == 2
    assert capsys.readouterr().err.endswith(f"vlaq replay: error: {why}\n")


def test_what_a_bag_does_not_say_is_asked_for_and_can_be_given(replay: Any, tmp_path: Path) -> None:
    bag = record(tmp_path / "mute", "/robot_description", "/instruction")
    urdf = tmp_path / "arm.urdf"
    urdf.write_text(panda.urdf())
    code, _, error = replay(bag)
    assert (code, "give it with --instruction" in error) == (2, True)
    code, _, error = replay(bag, "--instruction", TASK)
    assert (code, "give it with --urdf" in error) == (2, True)
    code, printed, _ = replay(bag, "--instruction", TASK, "--urdf", urdf)
    assert code == 0
    assert last(printed)["n_answers"] > 3


def test_many_bags_have_a_page_over_all_and_a_bad_one_ends_no_other(replay: Any, bag: Path, tmp_path: Path) -> None:
    record(tmp_path / "monday/bag")
    record(tmp_path / "tuesday/bag", "/joint_states")
    code, printed, _ = replay(tmp_path / "monday", tmp_path / "tuesday", "--latency", 0.2)
    out = tmp_path / "out"
    summary = json.loads((out / "summary.json").read_text())
    assert code == 1
    assert list(summary["bags"]) == ["monday/bag", "tuesday/bag"]
    assert summary["bags"]["monday/bag"]["n_answers"] > 3
    assert "no sensor_msgs/msg/JointState on /joint_states" in summary["bags"]["tuesday/bag"]["fault"]
    assert last(printed) == {
        **summary,
        "artifacts": [str(out / "index.html"), str(out / "summary.json")],
        "failing": [],
    }
    assert (out / "monday/bag/report.html").is_file()
    assert 'href="monday/bag/report.html"' in (out / "index.html").read_text()


def test_thresholds_are_fitted_and_checked_on_what_was_held_out(
    replay: Any, bag: Path, tmp_path: Path, tiny_bundle: Path
) -> None:
    fitting = write(tmp_path / "monday", entries(7.0))
    asked = ["--precision", "fine,coarse", "--fit-thresholds", 0.5, "--held-out", bag, "--latency", 0]
    code, printed, _ = replay(fitting, *asked)
    assert code == 0
    fit = last(printed)["thresholds"]
    assert fit["fitting"]["answers"] > fit["held_out"]["answers"] > 5
    assert fit["holds"] is True
    written = yaml.safe_load((tmp_path / "out/thresholds.yaml").read_text())["/**"]["ros__parameters"]["thresholds"]
    fitted = rules(Manifest.load(tiny_bundle).precisions, written)
    assert {rule.name: rule.threshold for rule in fitted} == fit["thresholds"]
    code, printed, _ = replay(bag, "--thresholds", written)
    assert code == 0
    assert json.loads((tmp_path / "out/report.json").read_text())["thresholds"] == pytest.approx(fit["thresholds"])


def test_ctrl_c_keeps_what_is_done(replay: Any, bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Progress, "advance", lambda *_: signal.raise_signal(signal.SIGINT))
    other = record(tmp_path / "other")
    code, printed, _ = replay(bag, other)
    (summary,) = last(printed)["bags"].values()
    assert code == 130
    assert summary["replayed_s"] < 2 < summary["bag_s"]
    assert (tmp_path / "out/index.html").is_file()
    assert "The replay was interrupted: this is what there was until then" in printed


def test_a_robot_file_is_proposed_on_standard_output(replay: Any, bag: Path, tmp_path: Path) -> None:
    code, printed, error = replay("--suggest", bag)
    assert (code, error) == (0, "")
    assert yaml.safe_load(printed)["joint_state_topic"] == "joint_states"
    assert not (tmp_path / "out").exists()
