"""The command `vlaq train`: its defaults are the recipe's, and it leaves a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
from test_demonstrations import EPISODES, record

from vlaq_ros.cli import train
from vlaq_ros.cli.main import main
from vlaq_ros.datatypes import ActionSpace
from vlaq_ros.evaluate import parallel
from vlaq_ros.evaluate.rollout import Outcome
from vlaq_ros.policy.spec import PolicySpec
from vlaq_ros.sim import panda, training
from vlaq_ros.sim.demonstrations import load, plan
from vlaq_ros.sim.training import Recipe


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    train.configure(parser)
    return parser.parse_args(["--out", "out", *arguments])


def test_the_defaults_are_the_recipes() -> None:
    defaults = parse()
    for name in ("action_space", "episodes", "init", "vision_steps", "steps", "processes", "seed"):
        assert getattr(defaults, name) == getattr(Recipe(), name), name
    assert tuple(ActionSpace) == train.ACTION_SPACES


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--episodes", "0"], "argument --episodes: got '0', expected a whole number from 1 to 100000"),
        (["--vision-steps", "-1"], "argument --vision-steps: got '-1', expected a whole number from 0 to 1000000"),
        (["--processes", "many"], "argument --processes: got 'many', expected a whole number from 1 to 64"),
        (["--action-space", "muscle"], "argument --action-space: invalid choice: 'muscle'"),
    ],
)
def test_a_wrong_argument_is_told(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["train", "--out", "out", *arguments])
    assert exit_info.value.code == 2
    assert sentence in capsys.readouterr().err


def test_what_cannot_be_written_is_told_before_anything_is_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, demos = tmp_path / "policy", tmp_path / "demonstrations"
    out.write_text("mine")
    assert main(["train", "--out", str(out), "--demos", str(demos)]) == 2
    assert capsys.readouterr().err == (
        f"vlaq train: {str(out)!r} exists; nothing was written: remove it, or give another --out\n"
    )
    assert not demos.exists()


def test_it_trains_and_says_what_to_try_next(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(train, "MEASURED_EPISODES", 1)
    # This policy has learnt nothing, so an arm would reject what it wants: another motion takes the place of its own.
    moved = np.array((*panda.HOME_RAD, 0.04)) + 0.01 * np.arange(200)[:, None]
    flown = Outcome(0, "", False, ("full",), np.zeros(1), np.zeros(1), moved)
    monkeypatch.setattr(parallel, "share_out", lambda *_, **__: iter([flown]))
    demos, out = record(tmp_path_factory.getbasetemp()), tmp_path / "policy"
    command = ["train", "--out", str(out), "--demos", str(demos), "--episodes", str(EPISODES)]
    command += ["--vision-steps", "1", "--steps", "1", "--processes", "1"]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.splitlines()[-1] == (
        f"{out}: trained on {EPISODES} demonstrations; try: vlaq rollout --model {out} --precision full; "
        f"for the robot: vlaq quantize {out} --out {out}_w8w4"
    )
    of_expert = training.spec_of(*load(plan(demos, EPISODES)), Recipe(), text_length=10).motion
    assert PolicySpec.load(out).motion != of_expert  # it is measured on the policy

    finished = {path.name: path.read_bytes() for path in out.iterdir()}
    assert main(command) == 0  # the same command again goes on where it was: at the end
    assert {path.name: path.read_bytes() for path in out.iterdir()} == finished
