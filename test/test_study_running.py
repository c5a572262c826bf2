"""Cells that are really rolled out, of a network with random weights: results, resuming, pilots, and a Ray cluster."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest
import torch
from test_probe import buffer_of

from vlaq_ros.errors import OtherStudyError
from vlaq_ros.evaluate import parallel
from vlaq_ros.evaluate.referee import TIME_LIMIT_S
from vlaq_ros.policy.checkpoint import Checkpoint
from vlaq_ros.study import measuring, running
from vlaq_ros.study.cells import Cell, Pair, Rule, Switch
from vlaq_ros.study.results import Row, path, read
from vlaq_ros.study.variants import Calibrated, Emulated, Full, Mixed, Spread, Variant
from vlaq_ros.study.workshop import Workshop

FULL, COARSE = Variant(Full()), Variant(Emulated(2, 2), 1)
PAIR = Pair("tiny", FULL, COARSE, "full", "coarse", "coarse")
WEIGHTS = (Full(), Calibrated("rtn", 2.0), Calibrated("rtn", 2.0, "coarse"), Emulated(3, 4), Mixed(Spread.RANDOM, 3.0))


class Here(Executor):
    """Runs calls at once, in this process."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.calls.append(args)
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def quiet(name: str, units: int) -> Callable[[int], None]:
    return lambda done: None


@pytest.fixture(scope="module", autouse=True)
def _short_episodes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "TIME_LIMIT_S", 1.0)
        patch.setattr(running, "PILOT_EPISODES", 2)
        patch.setattr(running, "PART", 2)
        yield


@pytest.fixture(scope="module")
def workshop(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    shop = Workshop(tiny_checkpoint, tmp_path_factory.mktemp("study"))
    shop.claim()
    buffer_of(Checkpoint.open(tiny_checkpoint), 4).save(shop.buffer)
    shop.prepare(WEIGHTS, 1, quiet)
    return shop


def play(workshop: Workshop, cell: Cell, episodes: int, pool: Executor) -> dict[int, Row]:
    flown = {PAIR.variants: running.pilot(workshop, PAIR, pool, quiet)} if cell.switch else {}
    running.run(workshop, [cell], flown, episodes=episodes, pool=pool, stage=quiet)
    return read(path(workshop.out, cell.name), cell.facts)


def test_episodes_are_played_once_and_extended(workshop: Workshop) -> None:
    cell, pool = Cell("full", (FULL,)), Here()
    first = play(workshop, cell, 3, pool)
    assert [part.numbers for (part,) in pool.calls] == [(0, 1), (2,)]
    head = path(workshop.out, cell.name).read_text().splitlines()[0]
    assert json.loads(head) == {"cell": "full", "variants": ["full"], "switch": None}
    more = play(workshop, cell, 4, pool)
    assert [part.numbers for (part,) in pool.calls[2:]] == [(3,)]
    assert {number: more[number] for number in first} == first
    assert sorted(more) == [0, 1, 2, 3]
    for row in more.values():
        assert row.seconds >= 1.0
        assert len(row.chunks) == 1
        assert row.chunks[0] > 0
        assert row.jerk > 0
        assert row.tool_jerk > 0


def test_rules_share_chunks_between_two_variants(workshop: Workshop) -> None:
    pool = Here()
    played = {
        rule: play(workshop, Cell(f"switching/{rule}", PAIR.variants, Switch(rule, 0.5)), 2, pool)
        for rule in (Rule.RANDOM, Rule.DYQ)
    }
    head = path(workshop.out, "switching/random").read_text().splitlines()[0]
    assert json.loads(head)["switch"] == {"rule": "random", "share": 0.5, "at": 0.5}
    assert all(len(row.chunks) == 2 for row in played[Rule.RANDOM].values())
    flights = [call for call in pool.calls if call[0].first_seed == running.PILOT_SEED]
    assert len(flights) == 4  # a coin's, then one for every share; the second cell flies none


def test_a_pilot_that_numbers_came_from_cannot_change_under_results(workshop: Workshop) -> None:
    cell = Cell("switching/dyq", PAIR.variants, Switch(Rule.DYQ, 0.5))
    play(workshop, cell, 2, Here())
    file = workshop.out / "pilots" / "tiny.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps(facts | {"sensitivities": [7.0, 8.0]}))
    with pytest.raises(OtherStudyError, match="made with another switch"):
        play(workshop, cell, 2, Here())
    file.write_text(json.dumps(facts))


def test_every_kind_of_weights_is_measured(workshop: Workshop) -> None:
    variants = [*map(Variant, WEIGHTS), COARSE]
    measuring.measure(workshop, variants, variants, quiet)
    known = measuring.load(workshop.out)["variants"]
    assert known["full"]["nmse"] < 1e-6
    fine, coarse = (known[f"rtn_2 {name}"] for name in ("fine", "coarse"))
    assert 0 < fine["nmse"] < coarse["nmse"] < known[COARSE.name]["nmse"]
    assert fine["linears"] == coarse["linears"] <= 2.0
    assert fine["chunk_ms"] > 0
    assert known["emulated w3a4"].keys() == {"nmse"}  # never timed, and it saves nothing


def test_bundles_are_made_once(workshop: Workshop) -> None:
    manifest = workshop.bundle(Calibrated("rtn", 2.0)) / "manifest.json"
    before = manifest.stat().st_mtime_ns
    workshop.prepare(WEIGHTS, 1, quiet)
    assert manifest.stat().st_mtime_ns == before


def test_a_directory_is_one_checkpoints(workshop: Workshop) -> None:
    workshop.claim()
    file = workshop.out / "study.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps(facts | {"checkpoint": "another"}))
    with pytest.raises(OtherStudyError, match="were made with another checkpoint; give the study another --out"):
        workshop.claim()
    file.write_text(json.dumps(facts))


def test_processes_give_the_same_episodes(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    part = running.Part(workshop, (FULL,), running.Resolved(parallel.own, (0.0,), 0.0), running.FIRST_SEED, (0,))
    with parallel.workers(1) as pool:
        (far,) = pool.submit(running.rows, part).result()
    monkeypatch.setattr(running, "TIME_LIMIT_S", TIME_LIMIT_S)  # which this process alone has shortened
    (near,) = running.rows(part)
    torch.set_num_threads(threads)
    assert near == far
