"""All benchmarks in their order, as one document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from vlaq_ros.bench import linear, machine, policy, subjects
from vlaq_ros.bench.contenders import contenders
from vlaq_ros.bench.linear import Cell, cells
from vlaq_ros.bench.timing import pinned
from vlaq_ros.policy.engine import native_dtype
from vlaq_ros.quant.kernels import select

PI0_SHAPES = ((2048, 2048), (16384, 2048), (2048, 16384), (4096, 1024), (1024, 4096), (1152, 4304))  # N x K
EMBEDDED_SHAPES = ((384, 128), (768, 128), (128, 384))
_LIBRARIES = ("torch", "transformers")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured, and how long at most."""

    quick: bool  # without paths that compile or import for seconds, and without random policies of true width
    linears: tuple[Cell, ...]
    embedded_linears: tuple[Cell, ...]  # of the embedded policy's own shapes
    cell_s: float
    cell_rounds: tuple[int, int]  # least, most
    policy_s: float
    policy_rounds: tuple[int, int]
    switch_rounds: int


QUICK = Plan(
    quick=True,
    linears=(*cells([(2048, 2048)], (1, 16, 51, 300)), *cells([(1024, 4096)], (1, 16, 51))),
    embedded_linears=(),
    cell_s=0.6,
    cell_rounds=(5, 15),
    policy_s=4.0,
    policy_rounds=(5, 15),
    switch_rounds=400,
)
FULL = Plan(
    quick=False,
    linears=tuple(cells(PI0_SHAPES, (1, 16, 51, 300, 816))),
    embedded_linears=tuple(cells(EMBEDDED_SHAPES, (1, 17, 137))),
    cell_s=3.0,
    cell_rounds=(5, 40),
    policy_s=60.0,
    policy_rounds=(5, 40),
    switch_rounds=2000,
)


def run(
    plan: Plan,
    device: torch.device,
    threads: Sequence[int],
    model: Path,
    progress: Callable[[str, int], None],
) -> dict[str, Any]:
    """Measure everything.

    Args:
        plan: what, and how long.
        device: on which.
        threads: numbers of them, one after the other; random policies are run with the most.
        model: the embedded policy's bundle, with its checkpoint beside it; it comes first in the document.
        progress: told what comes next and how many steps are left.

    Returns:
        The document that `report` lays out, ready for JSON.
    """
    kernel, dtype = select.chosen(device), native_dtype(device)
    identity = machine.identify(device)
    document: dict[str, Any] = {
        "machine": asdict(identity),
        "versions": {name: version(name) for name in _LIBRARIES},
        "kernel": asdict(kernel),
        "granularity": {path.name: path.granularity for path in contenders(device, dtype, quick=plan.quick)},
        **{key: [] for key in ("roofs", "linear", "linear_embedded", "policies")},
    }
    with TemporaryDirectory() as directory:
        progress("making policies", 0)
        smallest = subjects.smallest(Path(directory))
        embedded = subjects.embedded(model, Path(directory), quick=plan.quick)
        large = [] if plan.quick else list(subjects.random(Path(directory), device))
        left = len(threads) * (len(plan.linears) + len(plan.embedded_linears) + 1) + len(large) + 1
        for count in threads:
            with pinned(count):
                progress(f"reading and multiplying, {count} threads", left)
                roof = machine.measure(device, identity, kernel, count)
                document["roofs"].append(asdict(roof))
                conditions = linear.Conditions(identity, roof, kernel, dtype, plan.cell_s, plan.cell_rounds, plan.quick)
                for key, listed in (("linear", plan.linears), ("linear_embedded", plan.embedded_linears)):
                    for row in linear.measure(listed, conditions):
                        document[key].append(row)
                        left -= 1
                        progress(f"linears, {count} threads", left)
                for subject in [embedded, *(large if count == max(threads) else [])]:
                    progress(f"{subject.name}, {count} threads", left)
                    document["policies"].append(
                        policy.measure(subject, identity, roof, budget_s=plan.policy_s, rounds=plan.policy_rounds)
                    )
                    left -= 1
        progress("switching", left)
        with pinned(1):
            document["switch_us"] = asdict(policy.switch(smallest, device, plan.switch_rounds))
    return document
