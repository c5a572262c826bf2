"""`vlaq calibrate`: a recording in, a bundle and its report out, and its arguments."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_bags import session, write

from vlaq_ros.calibrate import calibration
from vlaq_ros.cli.main import main
from vlaq_ros.config import RobotConfig
from vlaq_ros.errors import CalibrationDataError, ModelNotFoundError, RobotFileError, TooFewObservationsError
from vlaq_ros.policy.engine import Engine
from vlaq_ros.policy.manifest import Manifest


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("bags") / "session", session(seconds=6.0))


def test_a_bag_becomes_a_bundle_with_a_report(
    tiny_checkpoint: Path,
    bag: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(calibration, "_AROUND", (1.1,))
    out = tmp_path / "mine"
    options = f"--data {bag} --out {out} --budget 0.9 --recipe gptq --observations 8 --denoise-steps 5 2 --episodes 0"
    assert main(["calibrate", str(tiny_checkpoint), *options.split()]) == 0
    printed = capsys.readouterr().out.splitlines()
    over = Engine.load(out).memory.over_bf16
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    fine, coarse = (plan["action_nmse"] for plan in report["precisions"])
    summary = (
        f"{out}: {over['linears']:.3f} of the bytes of its linears in bf16, {over['all']:.3f} of all; "
        f"action error {fine:.1e} at fine, {coarse:.1e} at coarse"
    )
    assert summary in printed
    assert over["linears"] <= 0.9
    assert printed[-1] == f"look at {out / 'report.html'}; try: vlaq rollout --model {out} --precision auto"
    manifest = Manifest.load(out)
    assert [plan.denoise_steps for plan in manifest.precisions] == [5, 2]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<html" in page
    assert "gptq" in page
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]

    assert main(["inspect", str(out), "--json"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    said = json.loads(last)
    assert (said["calibration"], said["recipe"]) == (manifest.calibration, "gptq")
    shown = [" ".join(line.split()) for line in lines]
    assert f"calibrated on sha256 {manifest.calibration}" in shown
    assert "recipe gptq" in shown


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["calibrate", *map(str, arguments)]) == 2
    return capsys.readouterr().err.removeprefix("vlaq calibrate: ").removesuffix("\n")


def test_what_is_there_is_not_overwritten(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, tiny_checkpoint, "--out", tmp_path) == (
        f"{str(tmp_path)!r} exists; nothing was written: remove it, or give another --out"
    )
    assert not any(tmp_path.iterdir())


def test_what_cannot_be_calibrated_is_told(
    tiny_checkpoint: Path, tiny_bundle: Path, bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(RobotFileError) as no_robot:
        RobotConfig.load("toaster")
    for options, expected in (
        ([tiny_bundle, "--data", bag], ModelNotFoundError(tiny_bundle, "model.safetensors")),
        ([tmp_path, "--data", bag], ModelNotFoundError(tmp_path, "policy.json")),
        ([tiny_checkpoint, "--data", tmp_path], CalibrationDataError(tmp_path)),
        ([tiny_checkpoint, "--data", bag, "--observations", 500], TooFewObservationsError("bag session", 60, 500)),
        ([tiny_checkpoint, "--data", bag, "--robot", "toaster"], no_robot.value),
    ):
        assert refused(capsys, *options, "--out", out) == str(expected)
    assert not any(tmp_path.iterdir())


def test_a_place_that_nothing_can_be_written_to_is_told_at_once(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a_file"
    file.touch()
    assert refused(capsys, tiny_checkpoint, "--out", file / "mine") == (
        f"{str(file / 'mine')!r} cannot be made in {str(file)!r}; expected a directory to write to: give another --out"
    )


def test_seeds_keep_to_calibrations_own_range() -> None:
    """Training's begin at 800000 and evaluation's at 900000; every kind of episode has its hundred thousand."""
    assert (31 + 1) * calibration.WHOLE * 600 <= 100_000
    assert calibration.WHOLE_SEED + 100_000 <= 800_000


def test_a_budget_that_cannot_be_kept_is_told_with_those_that_can(
    tiny_checkpoint: Path, bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", bag, "--out", tmp_path / "out", "--observations", 8, "--recipe", "rtn"]
    assert refused(capsys, tiny_checkpoint, *options, "--budget", 0.3) == (
        "the budget is 0.3 of the bytes in bf16, expected 0.554, the least that can be, to 1.0553, "
        "what 16 bits need; give --budget a number between them"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--budget", "0"], "argument --budget: got '0', expected a number above 0 and up to 1"),
        (["--budget", "1.5"], "argument --budget: got '1.5', expected a number above 0 and up to 1"),
        (["--budget", "half"], "argument --budget: got 'half', expected a number above 0 and up to 1"),
        (["--observations", "7"], "argument --observations: got '7', expected a whole number from 8 to 4096"),
        (["--denoise-steps", "5"], "argument --denoise-steps: expected 2 arguments"),
        (["--episodes", "-1"], "argument --episodes: got '-1', expected a whole number from 5 to 600"),
        (["--episodes", "4"], "argument --episodes: got '4', expected a whole number from 5 to 600"),
        (["--seed", "32"], "argument --seed: got '32', expected a whole number from 0 to 31"),
        (["--jobs", "0"], "argument --jobs: got '0', expected a whole number from 1 to 64"),
    ],
)
def test_arguments_that_cannot_be_parsed(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], why: str
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["calibrate", str(tiny_checkpoint), "--out", str(tmp_path / "out"), *options])
    assert exit_info.value.code == 2
    assert capsys.readouterr().err.endswith(f"vlaq calibrate: error: {why}\n")


def test_an_unknown_recipe_is_answered_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["calibrate", "any", "--out", "any", "--recipe", "magic"])
    assert "argument --recipe: invalid choice: 'magic' (choose from " in capsys.readouterr().err


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["calibrate", "--help"])
    assert exit_info.value.code == 0
    printed = capsys.readouterr().out
    options = (
        "checkpoint --out --budget --recipe --data --robot --instruction --observations --denoise-steps --episodes"
    )
    for option in (*options.split(), "--jobs", "--seed"):
        assert f"\n  {option}" in printed
