"""Show what a model directory holds: inputs, actions, precisions, and the bytes of its weights in memory.

The model is loaded as the robot loads it, so that the bytes are measured.

Examples:
  vlaq inspect
  vlaq inspect models/tabletop_pi0
"""

from __future__ import annotations

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "model", nargs="?", default="tabletop_pi0", help="model directory, or a shipped one (tabletop_pi0)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print two tables: the policy, and its precisions."""
    from rich.console import Console
    from rich.table import Column, Table

    from vlaq_ros.config import resolve
    from vlaq_ros.policy.engine import Engine

    directory = resolve(arguments.model, "models")
    engine = Engine.load(directory)
    manifest = engine.manifest
    steps, columns = manifest.action_mean.shape
    policy = Table.grid(Column(), Column(overflow="fold"), padding=(0, 2))  # a path is shown whole
    for name, value in (
        ("model", str(directory)),
        ("family", manifest.family),
        ("cameras", f"{', '.join(manifest.cameras)}, {manifest.image_size_px} x {manifest.image_size_px} px"),
        ("joints", ", ".join(manifest.joint_names)),
        ("instructions", "\n".join(manifest.instructions)),
        ("chunk", f"{steps} steps of {manifest.step_s:g} s"),
        ("action", f"{manifest.action_space}, {columns} columns"),
        ("denoising", f"{manifest.denoising_steps} Euler steps"),
        ("weights held", f"{engine.bytes_over_bf16['all']:.3f} of their bytes in bf16, for all precisions together"),
        ("of the linears", f"{engine.bytes_over_bf16['linears']:.3f}"),
    ):
        policy.add_row(f"[dim]{name}[/]", value)
    precisions = Table("precision", "weight bits", "activation bits", "from sensitivity S")
    for plan in manifest.precisions:
        precisions.add_row(plan.name, str(plan.weight_bits), str(plan.activation_bits), f"{plan.threshold:g}")
    console = Console()
    console.print(policy, precisions, sep="\n")
    return 0
