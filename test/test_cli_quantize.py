"""`vlaq quantize`: a checkpoint in, a bundle out, and its arguments."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vlaq_ros.cli.main import main
from vlaq_ros.policy.bundle import Bundle
from vlaq_ros.policy.manifest import PrecisionPlan
from vlaq_ros.quant.codes import RowGroup


def quantized(checkpoint: Path, out: Path, *options: str) -> Bundle:
    assert main(["quantize", str(checkpoint), "--out", str(out), *options]) == 0
    return Bundle.load(out)


def widths(made: Bundle) -> set[tuple[int, ...]]:
    return {group.bits for nested in made.nested.values() for group in nested.groups}


def test_8_and_4_bits_with_the_steps_and_threshold_of_the_policy_by_default(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    made, expected = quantized(tiny_checkpoint, out), Bundle.load(tiny_bundle)
    assert made.manifest == expected.manifest
    assert made.manifest.precisions == (PrecisionPlan("fine", 8, 8, 0.45), PrecisionPlan("coarse", 8, 8, 0.0))
    assert capsys.readouterr().out.splitlines()[-1] == f"{out}: 8- and 4-bit weights; try: vlaq inspect {out}"


def test_what_is_asked_for_is_in_the_manifest(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    made = quantized(
        tiny_checkpoint, out, "--denoise-steps", "5", "2", "--activations", "16", "--coarse", "8", "--embeddings", "8"
    )
    assert made.manifest.precisions == (PrecisionPlan("fine", 16, 5, 0.45), PrecisionPlan("coarse", 16, 2, 0.0))
    assert [made.manifest.weight_bits(precision) for precision in (0, 1)] == [8, 8]
    assert widths(made) == {(8, 8)}
    assert made.tensors["embed_tokens.weight_codes"].dtype is torch.int8
    assert capsys.readouterr().out.splitlines()[-1] == f"{out}: 8- and 8-bit weights; try: vlaq inspect {out}"


def test_4_bits_for_both_take_half_the_bytes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    made = quantized(tiny_checkpoint, tmp_path / "out", "--fine", "4")
    assert widths(made) == {(4, 4)}
    for nested in made.nested.values():
        assert nested.groups == (RowGroup(nested.out_features, (4, 4)),)
        assert nested.hi.nbytes == nested.out_features * nested.in_features / 2
        assert nested.lo.nbytes == 0


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["quantize", *map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out.strip() == ""  # a bar that has no terminal ends in an empty line
    return printed.err


def test_a_coarse_precision_that_is_finer_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert refused(capsys, tiny_checkpoint, "--out", out, "--coarse", 8, "--fine", 4) == (
        "vlaq quantize: --coarse in the command line is 8; expected at most 4, as --fine\n"
    )
    assert not out.exists()


def test_what_is_there_is_not_overwritten(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, tiny_checkpoint, "--out", tmp_path) == (
        f"vlaq quantize: {str(tmp_path)!r} exists; nothing was written: remove it, or give another --out\n"
    )
    assert not any(tmp_path.iterdir())


def test_a_bundle_is_no_checkpoint(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, tiny_bundle, "--out", tmp_path / "out") == (
        f"vlaq quantize: model directory {str(tiny_bundle)!r} has no model.safetensors; expected a bundle such as "
        "models/tabletop_pi0_calibrated, or a checkpoint such as models/tabletop_pi0\n"
    )


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--fine", "2"], "argument --fine: invalid choice: 2 (choose from 8, 4)"),
        (["--activations", "4"], "argument --activations: invalid choice: 4 (choose from 8, 16)"),
        (["--denoise-steps", "5"], "argument --denoise-steps: expected 2 arguments"),
        (["--denoise-steps", "5", "0"], "argument --denoise-steps: got '0', expected a whole number from 1 to 1000"),
        (["--embeddings", "4"], "argument --embeddings: invalid choice: 4 (choose from 16, 8)"),
    ],
)
def test_arguments_that_cannot_be_parsed(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], why: str
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["quantize", str(tiny_checkpoint), "--out", str(tmp_path / "out"), *options])
    assert exit_info.value.code == 2
    assert capsys.readouterr().err.endswith(f"vlaq quantize: error: {why}\n")


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["quantize", "--help"])
    assert exit_info.value.code == 0
    printed = capsys.readouterr().out
    for option in ("checkpoint", "--out", "--fine", "--coarse", "--activations", "--denoise-steps", "--embeddings"):
        assert f"\n  {option}" in printed
