"""A local Ray cluster in the place of processes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import as_completed
from math import factorial
from pathlib import Path

import pytest
import torch
from replayable import ROBOT, record

from vlaq_ros.errors import ClusterError, VlaqError
from vlaq_ros.evaluate.cluster import RayExecutor
from vlaq_ros.evaluate.rollout import own
from vlaq_ros.replay.jobs import replay_all
from vlaq_ros.replay.plan import Plan
from vlaq_ros.replay.policies import Policies
from vlaq_ros.study.pilots import Resolved
from vlaq_ros.study.running import Part, rows
from vlaq_ros.study.variants import Full, Variant
from vlaq_ros.study.workshop import Workshop

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def pool() -> Iterator[RayExecutor]:
    with RayExecutor("local") as executor:
        yield executor


def test_calls_come_back_as_futures(pool: RayExecutor) -> None:
    futures = {pool.submit(factorial, n): n for n in range(4)}
    assert {futures[done]: done.result() for done in as_completed(futures)} == {0: 1, 1: 1, 2: 2, 3: 6}
    assert list(pool.map(pow, (2, 3), (3, 2))) == [8, 9]
    assert pool.submit(torch.get_num_threads).result() == 1


def test_a_study_plays_there(pool: RayExecutor, tiny_checkpoint: Path) -> None:
    workshop = Workshop(tiny_checkpoint, tiny_checkpoint.parent / "nowhere")
    part = Part(workshop, (Variant(Full(), 1),), Resolved(own, (0.0,), 0.0), 0, (0,))
    (row,) = pool.submit(rows, part).result()
    assert row.number == 0
    assert row.chunks[0] > 0


def test_bags_are_replayed_there(pool: RayExecutor, tiny_bundle: Path, tmp_path: Path) -> None:
    policies = Policies.choose("all", tiny_bundle, None)
    plan = Plan(policies, ROBOT, "", "", "", thresholds="", latency=None, conditions=(), bound_m=None, annotate=False)
    bad, bag = tmp_path / "bad", record(tmp_path / "bag")
    results = {it.bag: it for it in replay_all(plan, {bad: tmp_path / "1", bag: tmp_path / "2"}, pool, lambda _: None)}
    assert results[bad].fault.startswith(f"bag {str(bad)!r} cannot be read")
    assert results[bag].document["n_answers"] > 3
    assert (tmp_path / "2/report.html").is_file()


def test_a_users_mistake_comes_back_as_its_sentence(pool: RayExecutor, tmp_path: Path) -> None:
    part = Part(Workshop(tmp_path, tmp_path), (Variant(Full()),), Resolved(own, (0.0,), 0.0), 0, (0,))
    with pytest.raises(VlaqError) as error:
        pool.submit(rows, part).result()
    assert str(error.value).startswith(f"model directory {str(tmp_path)!r} has no policy.json; expected")


def test_an_address_without_a_cluster_is_told() -> None:
    with pytest.raises(ClusterError) as error:
        RayExecutor("not an address")
    assert str(error.value).startswith("no Ray cluster answers at 'not an address' (")
