from __future__ import annotations

from pathlib import Path

import pytest

from vlaq_ros.cli.main import USER_ERROR, main


def test_a_page_without_markers_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Speed\n")
    assert main(["bench", "--quick", "--page", str(page)]) == USER_ERROR
    assert f"vlaq bench: page '{page}' lacks the lines" in capsys.readouterr().err
    assert page.read_text() == "# Speed\n"


def test_a_gpu_that_is_not_there_is_told_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["bench", "--device", "cuda"]) == USER_ERROR
    assert capsys.readouterr().err == (
        "vlaq bench: the device is cuda and torch sees no GPU; expected one and a build of torch that supports it: "
        "check nvidia-smi and torch.version.cuda, or take --device cpu\n"
    )


def test_threads_beyond_the_cores_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["bench", "--threads", "100000"])
    assert caught.value.code == USER_ERROR
    assert "argument --threads: got '100000', expected a whole number from 1 to" in capsys.readouterr().err
