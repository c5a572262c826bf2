"""Plans of trials: what can be said in them, and the order that follows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, multinomial
from sources import ROOT

from vlaq_ros.errors import BadValueError, MissingKeyError, TrialPlanFileError, UnknownKeyError
from vlaq_ros.evaluate.trial import ConditionConfig, TrialPlan, order, settings_tables, shipped_plans

SHIPPED = TrialPlan.load("sim")


@st.composite
def plans(draw: st.DrawFn) -> TrialPlan:
    conditions = draw(st.lists(st.sampled_from(["auto", "fine", "coarse", "other"]), min_size=1, unique=True))
    instructions = draw(st.lists(st.text(min_size=1), min_size=1, max_size=5, unique=True))
    return replace(
        SHIPPED,
        conditions={name: ConditionConfig() for name in conditions},
        instructions=tuple(instructions),
        trials=draw(st.integers(1, 30)),
        seed=draw(st.integers(0, 2**31)),
        scene=replace(SHIPPED.scene, seed=draw(st.integers(0, 1000))),
    )


@given(plans())
def test_in_every_block_each_condition_meets_the_same_instruction_and_scene_once(plan: TrialPlan) -> None:
    trials = order(plan)
    assert [trial.number for trial in trials] == list(range(len(plan.conditions) * plan.trials))
    size = len(plan.conditions)
    for block in range(plan.trials):
        part = trials[size * block : size * (block + 1)]
        assert {trial.block for trial in part} == {block}
        assert sorted(trial.condition for trial in part) == sorted(plan.conditions)
        assert len({trial.instruction for trial in part}) == 1
        assert {trial.seed for trial in part} == {plan.scene.seed + block}


@given(plans())
def test_instructions_are_spread_evenly(plan: TrialPlan) -> None:
    counts = Counter(trial.instruction for trial in order(plan))
    assert set(counts) <= set(plan.instructions)
    blocks = [counts[instruction] // len(plan.conditions) for instruction in plan.instructions]
    assert max(blocks) - min(blocks) <= 1


@given(plans())
def test_the_same_plan_gives_the_same_order(plan: TrialPlan) -> None:
    assert order(plan) == order(replace(plan))


def test_another_seed_gives_another_order_of_conditions_and_of_instructions() -> None:
    orders = [order(replace(SHIPPED, seed=seed)) for seed in range(20)]
    assert len({tuple(trial.condition for trial in trials) for trials in orders}) == 20
    assert len({tuple(trial.instruction for trial in trials) for trials in orders}) == 20


def test_no_condition_is_first_in_every_block() -> None:
    plan = replace(SHIPPED, trials=600)
    firsts = Counter(trial.condition for trial in order(plan) if trial.number % len(plan.conditions) == 0)
    assert all(150 < firsts[name] < 250 for name in plan.conditions)  # 200 by chance, within four deviations


@pytest.mark.parametrize("name", shipped_plans())
def test_every_shipped_plan_loads(name: str) -> None:
    plan = TrialPlan.load(name)
    assert len(order(plan)) >= 40


def written(path: Path, **changes: Any) -> Path:
    values = yaml.safe_load((ROOT / "config/trials/sim.yaml").read_text())
    file = path / "plan.yaml"
    file.write_text(yaml.safe_dump({**values, **changes}))
    return file


@pytest.mark.parametrize(
    ("changes", "key", "expected"),
    [
        ({"conditions": {}}, "conditions", "[]; expected at least one"),
        ({"instructions": []}, "instructions", "[]; expected at least one"),
        ({"instructions": ["a", "a"]}, "instructions", "['a', 'a']; expected each instruction once"),
        (
            {"conditions": {"a": {"model": "one"}, "b": {}}},
            "conditions",
            "{'a': 'one', 'b': ''}; expected a model for every condition, or for none",
        ),
        ({"success": {"by": "topic"}}, "success.topic", "''; expected the topic that tells success"),
        (
            {"scene": {"reset": "service"}},
            "scene.node",
            "''; expected the node whose service resets the scene",
        ),
        ({"trials": 0}, "trials", "0; expected a whole number from 1 to 10000"),
        ({"conditions": 3}, "conditions", "3; expected a mapping of names to mappings"),
        ({"start": 3}, "start", "3; expected a mapping"),
        ({"processes": "all"}, "processes", "'all'; expected one of running, simulated"),
    ],
)
def test_unusable_plans(tmp_path: Path, changes: dict[str, Any], key: str, expected: str) -> None:
    file = written(tmp_path, **changes)
    with pytest.raises(BadValueError) as refusal:
        TrialPlan.load(str(file))
    assert str(refusal.value) == f"{key} in {file} is {expected}"


def test_a_start_pose_of_another_robot(tmp_path: Path) -> None:
    start = yaml.safe_load((ROOT / "config/trials/sim.yaml").read_text())["start"]
    file = written(tmp_path, start={**start, "positions": [0.0, 1.0]})
    joints = ", ".join([*(f"panda_joint{number}" for number in range(1, 8)), "panda_finger_joint1"])
    with pytest.raises(BadValueError) as refusal:
        TrialPlan.load(str(file))
    assert str(refusal.value) == f"start.positions in {file} is [0.0, 1.0]; expected 8 numbers, of {joints}"


def test_nothing_that_moves_the_arm_has_a_default(tmp_path: Path) -> None:
    start = yaml.safe_load((ROOT / "config/trials/sim.yaml").read_text())["start"]
    for key in start:
        file = written(tmp_path, start={name: value for name, value in start.items() if name != key})
        with pytest.raises(MissingKeyError, match=rf"start has no key '{key}'"):
            TrialPlan.load(str(file))


def test_a_key_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UnknownKeyError, match="unknown key 'repeats'"):
        TrialPlan.load(str(written(tmp_path, repeats=3)))


@pytest.mark.parametrize(
    ("content", "why"), [(None, "does not exist"), ("- a\n", "is not a mapping of keys to values")]
)
def test_unreadable_plans(tmp_path: Path, content: str | None, why: str) -> None:
    file = tmp_path / "plan.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(TrialPlanFileError) as refusal:
        TrialPlan.load(str(file))
    assert str(refusal.value) == (
        f"trial plan {str(file)!r} {why}; expected the path of a YAML file or the name of a shipped plan: "
        f"{', '.join(shipped_plans())}"
    )


def test_the_docs_table_is_current() -> None:
    assert (ROOT / "docs/trial.md").read_text().endswith(settings_tables()), (
        "replace the tables at the end of docs/trial.md by the output of: python -m vlaq_ros.evaluate.trial"
    )


@pytest.mark.parametrize(("blocks", "found"), [(20, 43), (30, 68), (40, 84)])
def test_what_the_docs_say_that_blocks_show(blocks: int, found: int) -> None:
    only_first, only_second = 0.9 * 0.4, 0.1 * 0.6
    power = sum(
        multinomial.pmf([a, b, blocks - a - b], blocks, [only_first, only_second, 1 - only_first - only_second])
        for a in range(blocks + 1)
        for b in range(blocks + 1 - a)
        if a + b and binomtest(a, a + b).pvalue < 0.05
    )
    assert round(100 * power) == found
