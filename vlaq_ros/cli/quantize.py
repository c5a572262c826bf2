"""Make a bundle of a checkpoint: packed codes in place of weights, from which every precision is read.

Codes are rounded to nearest, which needs no data. The checkpoint is read layer by layer, so that one of 3.3 billion
weights needs less than 12 GB.

Examples:
  vlaq quantize models/tabletop_pi0 --out models/mine
  vlaq quantize checkpoints/my_pi0 --out models/my_pi0_w8w4 --embeddings 8 --denoise-steps 10 5
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vlaq_ros.cli.arguments import add_denoise_steps


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("checkpoint", type=Path, help="directory with transformers' files and policy.json")
    parser.add_argument("--out", type=Path, required=True, help="directory of the bundle; must not exist")
    parser.add_argument("--fine", type=int, choices=(8, 4), default=8, help="weight bits of precision fine (8)")
    parser.add_argument("--coarse", type=int, choices=(8, 4), default=4, help="weight bits of precision coarse (4)")
    parser.add_argument(
        "--activations",
        type=int,
        choices=(8, 16),
        default=8,
        help="activation bits; 16 quantizes weights alone, which saves memory and no time (8)",
    )
    add_denoise_steps(parser)
    parser.add_argument(
        "--embeddings", type=int, choices=(16, 8), default=16, help="bits of word embeddings, 8 with a scale a row (16)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Quantize, then say what was made."""
    import torch
    from rich.progress import Progress
    from torch import Tensor

    from vlaq_ros.errors import BadValueError
    from vlaq_ros.policy import bundle, pi0
    from vlaq_ros.policy.checkpoint import Checkpoint
    from vlaq_ros.policy.manifest import PrecisionPlan
    from vlaq_ros.quant.codes import NestedWeight, quantize

    if arguments.coarse > arguments.fine:
        raise BadValueError("--coarse", arguments.coarse, f"at most {arguments.fine}, as --fine", "the command line")
    checkpoint = Checkpoint.open(arguments.checkpoint)
    fine_steps, coarse_steps = arguments.denoise_steps or 2 * [checkpoint.spec.denoising_steps]
    precisions = (
        PrecisionPlan("fine", arguments.activations, fine_steps, checkpoint.spec.fine_threshold),
        PrecisionPlan("coarse", arguments.activations, coarse_steps, 0.0),
    )

    def codes(_: str, weight: Tensor) -> NestedWeight:
        return quantize(weight, torch.tensor([[arguments.fine], [arguments.coarse]]).expand(2, len(weight)))

    with Progress(transient=True) as bar:
        task = bar.add_task("weights", total=pi0.size(checkpoint.config))
        bundle.write(
            checkpoint,
            arguments.out,
            precisions,
            codes,
            embedding_bits=arguments.embeddings,
            report=lambda done: bar.advance(task, done),
        )
    print(f"{arguments.out}: {arguments.fine}- and {arguments.coarse}-bit weights; try: vlaq inspect {arguments.out}")
    return 0
