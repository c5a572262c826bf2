"""`vlaq inspect`: what is printed of a bundle and of a checkpoint, and the line of JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vlaq_ros.cli.main import main
from vlaq_ros.policy import bundle, pi0
from vlaq_ros.policy.bundle import Bundle
from vlaq_ros.policy.checkpoint import Checkpoint
from vlaq_ros.policy.engine import Engine
from vlaq_ros.policy.manifest import PrecisionPlan
from vlaq_ros.quant import codes
from vlaq_ros.quant.codes import NestedWeight


def printed_lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture
def mixed_bundle(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """Of every layer: a channel of 16 bits, one pruned, one of 8 and 4, one pruned when coarse; the others of 4."""

    def quantize(_: str, weight: Tensor) -> NestedWeight:
        widths = torch.full((2, len(weight)), 4)
        widths[:, 0], widths[:, 1], widths[0, 2], widths[1, 3] = 16, 0, 8, 0
        return codes.quantize(weight, widths)

    plans = (PrecisionPlan("fine", 16, 5, 0.5), PrecisionPlan("coarse", 8, 3, 0.0))
    out = tmp_path / "mixed"
    checkpoint = Checkpoint.open(tiny_checkpoint)
    bundle.write(checkpoint, out, plans, quantize, embedding_bits=16, report=lambda _: None)
    return out


def test_of_a_bundle(tiny_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["inspect", str(tiny_bundle)]) == 0
    lines = printed_lines(capsys)
    engine, held = Engine.load(tiny_bundle), Bundle.load(tiny_bundle)
    assert "cameras front, wrist, 96 x 96 px" in lines
    assert "chunk 16 steps of 0.05 s" in lines
    assert "action joint, 8 columns" in lines
    assert set(held.spec.instructions[1:]) <= set(lines)
    over, memory = engine.bytes_over_bf16, engine.memory
    said = f"weights held {over['all']:.3f} of their bytes in bf16, for all precisions together: {memory.all:,} bytes"
    assert said in lines
    assert f"of the linears {over['linears']:.3f}: {memory.linears:,} bytes" in lines
    assert f"kernel {engine.kernel.name}: {engine.kernel.why}" in lines
    rows = sum(weight.out_features for weight in held.nested.values())
    sizes = {"fine": 1, "coarse": 0.5}
    widths = {"fine": f"0/{rows}/0/0", "coarse": f"0/0/{rows}/0"}
    for plan in held.manifest.precisions:
        read = sum(
            int(sizes[plan.name] * weight.out_features * 2 * weight.hi.shape[1]) + 4 * weight.out_features
            for weight in held.nested.values()
        )
        cells = (plan.name, widths[plan.name], "8 bits", "8", f"{plan.threshold:g}", f"{read:,}")
        assert "│ " + " │ ".join(cells) + " │" in lines
    assert "calibrated on nothing" in lines
    assert not any(line.startswith("recipe") for line in lines)
    for tower in ("vision", "language", "expert"):
        own = [weight.out_features for name, weight in held.nested.items() if name.startswith(f"{tower}.")]
        assert f"│ {tower} │ {len(own)} │ 0/{sum(own)}/0/0 │ 8.00 │ 8.0 to 8.0 │" in lines


def test_json_of_every_width(mixed_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(mixed_bundle), "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    held = Bundle.load(mixed_bundle)
    layers, rows = len(held.nested), sum(weight.out_features for weight in held.nested.values())
    fine, coarse = said["precisions"]["fine"], said["precisions"]["coarse"]
    assert fine["rows"] == {"16": layers, "8": layers, "4": rows - 3 * layers, "0": layers}
    assert coarse["rows"] == {"16": layers, "8": 0, "4": rows - 3 * layers, "0": 2 * layers}
    assert said["layers"] == {
        name: {"16": 1, "8": 1, "4": weight.out_features - 3, "0": 1} for name, weight in held.nested.items()
    }
    assert (said["calibration"], said["recipe"]) == (None, None)
    assert [(plan["activation_bits"], plan["denoise_steps"], plan["threshold"]) for plan in (fine, coarse)] == [
        (16, 5, 0.5),
        (8, 3, 0.0),
    ]
    shapes = pi0.shapes(held.config)
    features = sum(shapes[f"{name}.weight"][1] for name in held.nested)  # none of these layers is padded
    # Coarse reads half the bytes of the row of 8 bits, and none of one row of 4 bits nor of its scale.
    difference = features - features // 2 + features // 2 + 4 * layers
    assert fine["weight_bytes_per_pass"] - coarse["weight_bytes_per_pass"] == difference
    assert said["bytes_over_bf16"] == Engine.load(mixed_bundle).bytes_over_bf16
    assert said["memory"]["linears"] / said["memory"]["linears_bf16"] == said["bytes_over_bf16"]["linears"]


def test_a_report_names_the_recipe_or_is_told_to_be_broken(
    mixed_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = mixed_bundle / "report.json"
    report.write_text('{"recipe": {"name": "channelwise"}}', encoding="utf-8")
    assert main(["inspect", str(mixed_bundle)]) == 0
    assert "recipe channelwise" in printed_lines(capsys)
    for broken in ("", "[]", "{}", '{"recipe": 1}'):
        report.write_text(broken, encoding="utf-8")
        assert main(["inspect", str(mixed_bundle)]) == 2
        assert capsys.readouterr().err == (
            f"vlaq inspect: model file {str(report)!r} cannot be used: it does not say recipe.name; copy or download "
            "it again\n"
        )


def test_of_a_checkpoint(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    assert main(["inspect", str(tiny_checkpoint), "--json"]) == 0
    *lines, last = printed_lines(capsys)
    size = (tiny_checkpoint / "model.safetensors").stat().st_size
    assert f"kind checkpoint at full precision, {size:,} bytes of weights" in lines
    assert f"for the robot vlaq quantize {tiny_checkpoint} --out {tiny_checkpoint}_w8w4" in lines
    assert "chunk 16 steps of 0.05 s" in lines
    assert json.loads(last) == {"kind": "checkpoint", "bytes": size}
