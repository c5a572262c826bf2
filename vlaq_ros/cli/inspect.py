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
    from rich.table import Table

    from vlaq_ros.policy.checkpoint import Checkpoint
    from vlaq_ros.policy.engine import Engine
    from vlaq_ros.policy.manifest import Manifest
    from vlaq_ros.policy.spec import PolicySpec

_WIDTHS = (16, 8, 4, 0)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "model", nargs="?", default="tabletop_pi0_w8w4", help="model directory, or a shipped one (tabletop_pi0_w8w4)"
    )
    parser.add_argument("--json", action="store_true", help="end with a line of JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print two tables of a bundle, the policy and its precisions, or the first of a checkpoint."""
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
        policy = _policy(directory, engine.spec, engine.noise_shape[0], _bundle_rows(engine))
        console.print(policy, _precisions(facts["precisions"]), sep="\n")
    if arguments.json:
        print(json.dumps(facts))
    return 0


def _of_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"kind": "checkpoint", "bytes": sum(file.stat().st_size for file in checkpoint.files)}


def _of_bundle(engine: Engine, manifest: Manifest, directory: Path) -> dict[str, Any]:
    from dataclasses import asdict

    reads = _reads(manifest, directory)
    precisions = {
        plan.name: {
            "rows": {str(width): rows[width] for width in _WIDTHS},
            "activation_bits": plan.activation_bits,
            "denoise_steps": plan.denoise_steps,
            "threshold": plan.threshold,
            "weight_bytes_per_pass": bytes_read,
        }
        for plan, (rows, bytes_read) in zip(manifest.precisions, reads, strict=True)
    }
    return {
        "kind": "bundle",
        "bytes_over_bf16": engine.bytes_over_bf16,
        "precisions": precisions,
        "kernel": engine.kernel.name,
        "memory": asdict(engine.memory),
    }


def _reads(manifest: Manifest, directory: Path) -> list[tuple[Counter[int], int]]:
    """Per precision: how many output channels of the quantized linears have each width, and their bytes in one pass."""
    from vlaq_ros.policy import pi0
    from vlaq_ros.policy.description import describe
    from vlaq_ros.quant.hadamard import padded

    shapes, half = pi0.shapes(describe(directory).config), _half_rows(manifest, directory)
    reads = []
    for index in range(len(manifest.precisions)):
        rows: Counter[int] = Counter()
        size = 0
        for name, layer in manifest.layers.items():
            outputs, features = shapes[f"{name}.weight"]
            here: Counter[int] = Counter({16: half[name]})
            for group in layer.groups:
                here[group.bits[index]] += group.rows
            here[0] += outputs - here.total()  # pruned in every precision, so not stored
            size += 2 * features * here[16]
            size += sum(here[bits] * (padded(features) * bits // 8 + 4) for bits in (8, 4))  # 4: the scale
            rows += here
        reads.append((rows, size))
    return reads


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


def _bundle_rows(engine: Engine) -> list[tuple[str, str]]:
    memory, over = engine.memory, engine.bytes_over_bf16
    return [
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
            "/".join(str(facts["rows"][str(width)]) for width in _WIDTHS),
            f"{facts['activation_bits']} bits",
            str(facts["denoise_steps"]),
            f"{facts['threshold']:g}",
            f"{facts['weight_bytes_per_pass']:,}",
        )
    return table
