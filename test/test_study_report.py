"""Tables and figures of made-up episodes, whose numbers are known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import INSTRUCTIONS

from vlaq_ros.errors import NoResultsError
from vlaq_ros.evaluate.statistics import holm, lower_bound95, mcnemar, noninferiority_p, wilson95
from vlaq_ros.study import report
from vlaq_ros.study.analysis import Study, read
from vlaq_ros.study.cells import Cell, plan
from vlaq_ros.study.results import Results, Row, path
from vlaq_ros.study.variants import Emulated

PLAN = plan(Emulated(4, 3))
EPISODES = 120
RATES = {
    "full": 0.9,
    "methods/channelwise": 0.9,
    "methods/layerwise": 0.7,
    "methods/rtn": 0.5,
    "methods/quantvla": 0.85,
    "width/w4a8": 0.9,
    "width/w4a3": 0.4,
    "steps/fine-1": 0.6,
    "steps/fine-4": 0.85,
    "switching/activations/dyq-50": 0.8,
    "switching/activations/random-50": 0.6,
    "switching/steps/dyq-50": 0.7,
}


def successes(name: str) -> np.ndarray:
    """Nested: what a worse cell solves, a better one solves."""
    return np.random.default_rng(0).permutation(EPISODES) < round(RATES[name] * EPISODES)


def rows_of(cell: Cell) -> list[Row]:
    chunks = (6, 4) if cell.switch else (10,)
    jerk = 1.0 if cell.name == "full" else 1.5
    return [Row(k, bool(done), 4.0, chunks, jerk, 2 * jerk) for k, done in enumerate(successes(cell.name))]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("study")
    facts = {"checkpoint": "0", "instructions": INSTRUCTIONS, "denoising_steps": 8}
    (directory / "study.json").write_text(json.dumps(facts))
    for cell in PLAN.cells:
        if cell.name in RATES:
            Results(path(directory, cell.name), cell.facts).add(rows_of(cell))
    measured = {
        "full": {"nmse": 0.0, "linears": 2.0, "all": 2.0, "chunk_ms": 20.0},
        "channelwise_0.305 fine": {"nmse": 0.0123, "linears": 0.3049, "all": 0.41, "chunk_ms": 10.5},
        "guided_0.305 fine, 4 steps": {"nmse": 0.02, "linears": 0.3049, "all": 0.41, "chunk_ms": 8.0},
        "emulated w4a3": {"nmse": 0.25},
    }
    (directory / "variants.json").write_text(json.dumps({"machine": {"name": "a CPU"}, "variants": measured}))
    return directory


@pytest.fixture(scope="module")
def study(out: Path) -> Study:
    return read(PLAN, out)


def test_differences_are_on_the_same_seeds(study: Study) -> None:
    difference = study.lines["methods/layerwise"].against(study.full)
    expected = mcnemar(successes("methods/layerwise"), successes("full"))
    assert difference.comparison == expected
    assert difference.value == pytest.approx(0.7 - 0.9)
    assert difference.bound == lower_bound95(expected, EPISODES)
    assert difference.discordance == pytest.approx(0.2)


def test_every_family_has_its_rate(study: Study) -> None:
    assert study.families == ("lift", "bin")
    lift = study.family_rate(study.full, "lift")
    assert lift is not None
    expected = [done for k, done in enumerate(successes("full")) if k % len(INSTRUCTIONS) < 3]
    assert (lift.successes, lift.n) == (sum(expected), len(expected))
    assert study.family_rate(study.full, "stack") is None


def test_claims_are_judged_together(study: Study) -> None:
    verdicts = {verdict.claim.cell + ">" + verdict.claim.than: verdict for verdict in study.verdicts()}
    assert len(verdicts) == 5  # the others' cells have not been run
    assert verdicts["methods/channelwise>methods/layerwise"].holds
    assert verdicts["switching/activations/dyq-50>switching/activations/random-50"].holds
    assert not verdicts["switching/steps/dyq-50>steps/fine-4"].holds  # it is worse
    same = mcnemar(successes("full"), successes("full"))
    assert verdicts["methods/channelwise>full"].p == noninferiority_p(same, EPISODES, 0.02)
    listed = [verdict.p for verdict in study.verdicts()]
    assert [verdict.holm_p for verdict in study.verdicts()] == holm(listed)


def test_tables_say_what_was_measured_and_what_was_not(out: Path) -> None:
    written = report.write(PLAN, out)
    assert [file.name for file in written] == [
        "tables.md",
        "methods.svg",
        "widths.svg",
        "switching.svg",
        "frontier.svg",
    ]
    text = written[0].read_text()
    low, high = wilson95(108, EPISODES)
    assert f"| methods/channelwise | 90.0 ({100 * low:.1f} to {100 * high:.1f}) |" in text
    assert (
        "| methods/channelwise | channelwise_0.305 fine | 1.2e-02 | 1.500 / 1.500 | 1.000 | 0.305 | 0.410 | 10.5 |"
        in text
    )
    assert "| width/w4a3 | emulated w4a3 | 2.5e-01 | 1.500 / 1.500 | 1.000 | — | — | — |" in text
    assert "| switching/activations/dyq-50 | emulated w4a8 / emulated w4a3 | 40.0% |" in text
    assert "chunk, ms (a CPU, 1 thread)" in text
    assert "## 2 and 4 bits" not in text  # none of its cells has been run
    assert "On the 120 episodes that all of them have." in text
    widths = {len(line.split(" | ")) for line in text.split("\n\n")[2].splitlines()}
    assert len(widths) == 1


def test_the_same_results_give_the_same_figures(out: Path) -> None:
    first = {file.name: file.read_bytes() for file in report.write(PLAN, out)}
    assert first == {file.name: file.read_bytes() for file in report.write(PLAN, out)}


def test_a_study_that_has_not_been_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(NoResultsError, match="holds no results of the full policy; run `vlaq study --out"):
        report.write(PLAN, tmp_path)


def test_the_tables_in_docs_are_of_the_episodes_beside_them(tmp_path: Path) -> None:
    kept = Path(__file__).parents[1] / "docs" / "study"
    copied = shutil.copytree(kept, tmp_path / "study")
    tables, *_ = report.write(PLAN, copied)
    assert tables.read_text() == (kept / "report" / "tables.md").read_text()
    page = (kept.parent / "study.md").read_text()
    claims = tables.read_text().partition("## Claims\n\n")[2].partition("\n\n")[0]
    assert claims in page
