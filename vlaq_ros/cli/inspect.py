"""Show what a model directory holds: inputs, actions, precisions, and the bytes of its weights in memory.

A bundle is loaded as the robot loads it, so that the bytes are measured. Of a checkpoint, only the files are read.

Examples:
  vlaq inspect
  vlaq inspect models/mine_w8w4 --json
  vlaq inspect models/tabletop_pi0
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # help needs none of these heavy modules
    import torch
    from rich.table import Table

    from vlaq_ros.policy.checkpoint import Checkpoint
    from vlaq_ros.policy.engine import Engine
    from vlaq_ros.policy.manifest import Manifest
    from vlaq_ros.policy.spec import PolicySpec

_WIDTHS = (16, 8, 4, 0)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "model",
        nargs="?",
        default="tabletop_pi0_calibrated",
        help="model directory, or a shipped one (tabletop_pi0_calibrated)",
    )
    parser.add_argument("--json", action="store_true", help="end with a line of JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print three tables of a bundle, the policy, its precisions and its layers, or the first of a checkpoint."""
    from rich.console import Console

    from vlaq_ros.config import resolve
    from vlaq_ros.errors import NotQuantizedError
    from vlaq_ros.policy.checkpoint import Checkpoint
    from vlaq_ros.policy.engine import Engine
    from vlaq_ros.policy.manifest import Manifest

    directory = resolve(arguments.model, "models")
    console = Console()
    try:
        manifest = Manifest.load(directory)
    except NotQuantizedError:
        checkpoint = Checkpoint.open(directory)
        facts = _of_checkpoint(checkpoint)
        console.print(
            _policy(directory, checkpoint.spec, checkpoint.config.chunk_size, _checkpoint_rows(directory, facts))
        )
    else:
        engine = Engine.load(directory)
        facts = _of_bundle(engine, manifest, directory)
        policy = _policy(directory, engine.spec, engine.noise_shape[0], _bundle_rows(engine, facts))
        console.print(policy, _precisions(facts["precisions"]), _towers(facts["layers"]), sep="\n")
    if arguments.json:
        print(json.dumps(facts))
    return 0


def _of_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"kind": "checkpoint", "bytes": sum(file.stat().st_size for file in checkpoint.files)}


def _of_bundle(engine: Engine, manifest: Manifest, directory: Path) -> dict[str, Any]:
    from dataclasses import asdict

    from vlaq_ros.policy import pi0
    from vlaq_ros.policy.description import describe

    shapes = pi0.shapes(describe(directory).config)
    widths = _widths(manifest, shapes, directory)
    precisions = {
        plan.name: {
            "rows": _counts(sum((rows[index] for rows in widths.values()), Counter())),
            "activation_bits": plan.activation_bits,
            "denoise_steps": plan.denoise_steps,
            "threshold": plan.threshold,
            "weight_bytes_per_pass": sum(
                _bytes_read(shapes[f"{name}.weight"][1], rows[index]) for name, rows in widths.items()
            ),
        }
        for index, plan in enumerate(manifest.precisions)
    }
    return {
        "kind": "bundle",
        "calibration": manifest.calibration,
        "recipe": _recipe(directory),
        "bytes_over_bf16": engine.bytes_over_bf16,
        "precisions": precisions,
        "layers": {name: _counts(rows[0]) for name, rows in widths.items()},
        "kernel": engine.kernel.name,
        "memory": asdict(engine.memory),
    }


def _recipe(directory: Path) -> str | None:
    """Name the recipe that a bundle was calibrated by, where a report lies in it."""
    from vlaq_ros.errors import CorruptModelError

    path = directory / "report.json"
    if not path.is_file():
        return None
    try:
        name: str = json.loads(path.read_text(encoding="utf-8"))["recipe"]["name"]
    except (ValueError, KeyError, TypeError):
        raise CorruptModelError(path, "it does not say recipe.name") from None
    return name


def _widths(manifest: Manifest, shapes: dict[str, torch.Size], directory: Path) -> dict[str, list[Counter[int]]]:
    """Per quantized linear and precision: how many output channels have each width."""
    half = _half_rows(manifest, directory)
    widths: dict[str, list[Counter[int]]] = {}
    for name, layer in manifest.layers.items():
        widths[name] = []
        for index in range(len(manifest.precisions)):
            rows = Counter({16: half[name]})
            for group in layer.groups:
                rows[group.bits[index]] += group.rows
            rows[0] += shapes[f"{name}.weight"][0] - rows.total()  # pruned in every precision, so not stored
            widths[name].append(rows)
    return widths


def _counts(rows: Counter[int]) -> dict[str, int]:
    return {str(width): rows[width] for width in _WIDTHS}


def _bytes_read(features: int, rows: Counter[int]) -> int:
    """Count the bytes of a linear that one pass reads."""
    from vlaq_ros.quant.hadamard import padded

    coded = sum(rows[bits] * (padded(features) * bits // 8 + 4) for bits in (8, 4))  # 4: the scale
    return 2 * features * rows[16] + coded


def _half_rows(manifest: Manifest, directory: Path) -> Counter[str]:
    """How many 16-bit channels every layer has, from the headers of the files."""
    from safetensors import safe_open

    count: Counter[str] = Counter()
    suffix = ".weight_half_rows"
    for file in sorted(directory / name for name in manifest.files if name.endswith(".safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  # it is no mapping
                if name.endswith(suffix):
                    count[name.removesuffix(suffix)] = tensors.get_slice(name).get_shape()[0]
    return count


def _policy(directory: Path, spec: PolicySpec, steps: int, rows: Iterable[tuple[str, str]]) -> Table:
    from rich.table import Column, Table

    table = Table.grid(Column(), Column(overflow="fold"), padding=(0, 2))  # a path is shown whole
    for name, value in (
        ("model", str(directory)),
        ("family", spec.family),
        ("cameras", f"{', '.join(spec.cameras)}, {spec.image_size_px} x {spec.image_size_px} px"),
        ("joints", ", ".join(spec.joint_names)),
        ("instructions", "\n".join(spec.instructions)),
        ("chunk", f"{steps} steps of {spec.step_s:g} s"),
        ("action", f"{spec.action_space}, {spec.action_mean.shape[-1]} columns"),
        ("denoising", f"{spec.denoising_steps} Euler steps at full precision"),
        *rows,
    ):
        table.add_row(f"[dim]{name}[/]", value)
    return table


def _checkpoint_rows(directory: Path, facts: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("kind", f"checkpoint at full precision, {facts['bytes']:,} bytes of weights"),
        ("for the robot", f"vlaq quantize {directory} --out {directory}_w8w4"),
    ]


def _bundle_rows(engine: Engine, facts: dict[str, Any]) -> list[tuple[str, str]]:
    memory, over = engine.memory, engine.bytes_over_bf16
    return [
        ("calibrated on", f"sha256 {facts['calibration']}" if facts["calibration"] else "nothing"),
        *([("recipe", facts["recipe"])] if facts["recipe"] else []),
        ("kernel", f"{engine.kernel.name}: {engine.kernel.why}"),
        (
            "weights held",
            f"{over['all']:.3f} of their bytes in bf16, for all precisions together: {memory.all:,} bytes",
        ),
        ("of the linears", f"{over['linears']:.3f}: {memory.linears:,} bytes"),
        ("memory measured", f"{memory.resident_growth:,} bytes resident, {memory.device_growth:,} on the GPU"),
    ]


def _precisions(precisions: dict[str, dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table("precision", "rows of 16/8/4/0 bits", "activations", "steps", "from S", "weight bytes a pass")
    for name, facts in precisions.items():
        table.add_row(
            name,
            _slashed(facts["rows"]),
            f"{facts['activation_bits']} bits",
            str(facts["denoise_steps"]),
            f"{facts['threshold']:g}",
            f"{facts['weight_bytes_per_pass']:,}",
        )
    return table


def _towers(layers: dict[str, dict[str, int]]) -> Table:
    """Sum up the layers of every tower, as the finest precision reads them."""
    from rich.table import Table

    table = Table("tower", "linears", "rows of 16/8/4/0 bits at the finest", "mean bits", "of its linears")
    for tower in dict.fromkeys(name.split(".")[0] for name in layers):
        own = [rows for name, rows in layers.items() if name.split(".")[0] == tower]
        total = {width: sum(rows[width] for rows in own) for width in own[0]}
        means = sorted(map(_mean_bits, own))
        between = f"{means[0]:.1f} to {means[-1]:.1f}"
        table.add_row(tower, str(len(own)), _slashed(total), f"{_mean_bits(total):.2f}", between)
    return table


def _slashed(rows: dict[str, int]) -> str:
    return "/".join(str(rows[str(width)]) for width in _WIDTHS)


def _mean_bits(rows: dict[str, int]) -> float:
    return sum(int(width) * count for width, count in rows.items()) / sum(rows.values())
