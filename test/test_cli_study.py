"""`vlaq study` as a user types it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlaq_ros.cli.main import USER_ERROR, main
from vlaq_ros.study.results import Results, Row, path


def test_the_list_names_cells_and_what_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row(k, True, 4.0, (10,), 1.0, 1.0) for k in range(3)]
    Results(path(tmp_path, "width/w4a8"), {"cell": "width/w4a8", "variants": ["emulated w4a8"]}).add(rows)
    assert main(["study", "--out", str(tmp_path), "--list", "--cells", "full", "width/w4a*"]) == 0
    printed = capsys.readouterr().out
    lines = [line.split("│") for line in printed.splitlines()]
    found = {line[1].strip(): (line[2].strip(), line[3].strip()) for line in lines if len(line) == 5}
    assert found["full"] == ("full", "0")
    assert found["width/w4a8"] == ("emulated w4a8", "3")
    assert len(found) == 6


def test_an_unknown_cell_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "--cells", "methods/best", "--list"]) == USER_ERROR
    assert "no cell of the study is named 'methods/best'" in capsys.readouterr().err


def test_a_report_of_nothing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "--out", str(tmp_path), "--report"]) == USER_ERROR
    assert "holds no results of the full policy" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["w5a3", "w4", "w4a5", "a3w4", "w4a8", "w4a16"])
def test_widths_that_are_not_emulated_are_told(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["study", "--coarse", text])
    expected = "expected widths below w4a8 such as w4a3: weights of 4, 3, 2 and activations of 16, 8, 4, 3, 2 bits"
    assert f"got {text!r}, {expected}" in " ".join(capsys.readouterr().err.split())
