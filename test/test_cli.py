"""The command `vlaq`: help without the heavy libraries, and mistakes in a sentence."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from sources import ROOT

from vlaq_ros import __version__
from vlaq_ros.cli import inspect
from vlaq_ros.cli.main import COMMANDS, main


def without(modules: Sequence[str], arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run `vlaq` in a process where modules cannot be imported."""
    program = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({modules}))\n"  # None there makes an import fail
        "from vlaq_ros.cli.main import main\n"
        f"sys.exit(main({arguments}))\n"
    )
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [[], *([command] for command in COMMANDS)])
def test_help_shows_examples_and_needs_no_heavy_library(arguments: list[str]) -> None:
    done = without(["matplotlib", "mujoco", "numpy", "rclpy", "torch", "transformers"], [*arguments, "--help"])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(" ".join(["usage: vlaq", *arguments, "[-h]"]))
    assert "\nExamples:\n  vlaq" in done.stdout


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["--version"])
    assert exit_info.value.code == 0
    assert capsys.readouterr().out == f"vlaq {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["dance"], ["inspect", "--loud"]])
def test_arguments_that_cannot_be_parsed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 2
    assert "usage: vlaq" in capsys.readouterr().err


def test_a_mistake_is_answered_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        f"vlaq inspect: model directory {str(tmp_path)!r} has no manifest.json; expected a bundle such as "
        "models/tabletop_pi0_calibrated, or a checkpoint such as models/tabletop_pi0\n"
    )


def test_a_library_that_the_package_does_not_bring(tiny_bundle: Path) -> None:
    done = without(["torch"], ["inspect", str(tiny_bundle)])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "vlaq inspect: the Python module 'torch' is needed and not installed; "
        "install the build of PyTorch that fits this machine\n"
    )


def test_a_library_that_only_a_defect_can_miss_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_ours(_: argparse.Namespace) -> int:
        raise ModuleNotFoundError("No module named 'vlaq_ros.nowhere'", name="vlaq_ros.nowhere")

    monkeypatch.setattr(inspect, "run", without_ours)
    with pytest.raises(ModuleNotFoundError, match=r"vlaq_ros\.nowhere"):
        main(["inspect"])


def test_ctrl_c_ends_with_the_shells_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(inspect, "run", interrupted)
    assert main(["inspect"]) == 130
