from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from vlaq_ros.bench import bounds, machine, report, subjects
from vlaq_ros.bench.linear import Cell
from vlaq_ros.bench.machine import Machine, Roof
from vlaq_ros.bench.suite import Plan, run
from vlaq_ros.policy.bundle import Bundle

CPU = torch.device("cpu")
LEAST = Plan(
    quick=True,
    linears=(Cell(64, 128, 1), Cell(64, 128, 5)),
    embedded_linears=(Cell(32, 64, 3),),
    cell_s=0.0,
    cell_rounds=(2, 2),
    policy_s=0.0,
    policy_rounds=(2, 2),
    switch_rounds=2,
)


@pytest.fixture(scope="module")
def told() -> list[tuple[str, int]]:
    return []


@pytest.fixture(scope="module")
def document(tiny_bundle: Path, told: list[tuple[str, int]]) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:  # the larger the caches, the more copies of every layer
        patch.setattr(machine, "identify", lambda _: Machine("cpu", "a processor", (), "", {"L2": 2**16}))
        found = run(LEAST, CPU, [1], tiny_bundle, lambda what, left: told.append((what, left)))
    return dict(json.loads(json.dumps(found)))  # as a file gives it


def test_a_run_measures_everything_once(document: dict[str, Any]) -> None:
    assert [(row["n"], row["k"], row["m"]) for row in document["linear"]] == [(64, 128, 1), (64, 128, 5)]
    assert [(row["n"], row["k"], row["m"]) for row in document["linear_embedded"]] == [(32, 64, 3)]
    assert [roof["threads"] for roof in document["roofs"]] == [1]
    (policy,) = document["policies"]
    assert policy["name"] == "tiny"
    assert set(policy["ms"]) == {policy["transformers"], "vlaq full", "vlaq fine", "vlaq coarse"}
    assert set(policy["speed_up"][""]) == {"coarse_over_transformers", "coarse_over_full", "coarse_over_fine"}
    assert all(sum(shares.values()) == pytest.approx(1) for shares in policy["shares"].values())
    assert policy["shares"]["vlaq coarse"]["integer linears"] > 0
    assert policy["shares"]["vlaq full"]["integer linears"] == 0
    assert policy["memory"][""]["over_bf16"]["linears"] < policy["memory"]["full"]["over_bf16"]["linears"]


def test_the_steps_that_are_left_count_down_to_none(document: dict[str, Any], told: list[tuple[str, int]]) -> None:
    del document  # its run told them
    steps = [left for _, left in told[1:]]
    assert steps == sorted(steps, reverse=True)
    assert told[-1] == ("switching", 1)


def test_what_a_run_found_can_be_told(document: dict[str, Any]) -> None:
    line = report.last_line(document)
    assert len(line["linear"]) == 2
    assert all(value > 0 for value in line["policy"].values())
    assert line["bytes_over_bf16"]["linears"] < 1
    assert "| vlaq coarse |" in report.tables([document])


def test_a_budget_reads_8_bits_of_a_tenth_of_the_rows() -> None:
    weight = subjects._with_budget("a layer", torch.randn(40, 64))
    assert [(group.rows, group.bits) for group in weight.groups] == [(4, (8, 4)), (36, (4, 4))]
    assert len(weight.lo) == 4


def test_the_bound_of_a_policy_is_that_of_its_linears(tiny_bundle: Path) -> None:
    held = Bundle.load(tiny_bundle)
    bits = bounds.code_bits(held.manifest, 1)
    assert set(bits.values()) == {4.0}
    weights = sum(shape.numel() for shape in bounds.quantized(held).values())
    roof = Roof(1, {"L2": 1e300, "memory": 1.0}, {"fp32": 1e300})

    def bound_s(caches_bytes: dict[str, int], steps: int) -> float:
        small = Machine("cpu", "", (), "", caches_bytes)
        return bounds.bound_s(held, bits, kind="fp32", steps=steps, machine=small, roof=roof)

    experts = sum(shape.numel() for name, shape in bounds.quantized(held).items() if name.startswith("expert"))
    assert bound_s({"L2": 0}, 1) == weights / 2  # a byte per second
    assert bound_s({"L2": 0}, 3) == (weights + 2 * experts) / 2
    assert bound_s({"L2": 2**30}, 1) < 1e-200  # all weights lie in the cache
