"""Rollouts shared out to processes, a part of the episodes at a time."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from vlaq_ros.config import PilotConfig, RobotConfig
from vlaq_ros.errors import VlaqError
from vlaq_ros.evaluate.rollout import Outcome, Switching, own, play
from vlaq_ros.policy.engine import FULL, Engine

PART = 25  # episodes in one batch, whatever the number of processes: outcomes do not depend on it


def share_out(
    model: Path,
    precision: str,
    episodes: Sequence[tuple[int, str]],
    *,
    latency_s: float,
    limit_s: float,
    jobs: int,
    keep_observations: bool = False,
    switching: Switching = own,
    thresholds: Sequence[float] | None = None,
) -> Iterator[Outcome]:
    """Run episodes in `jobs` processes of one inference thread each.

    Args:
        model: directory of the policy.
        precision: `auto`, `full`, or a name of the policy's precisions.
        episodes: a seed and an instruction each.
        latency_s: from an observation to the arrival of its command.
        limit_s: simulated time that an episode may take.
        jobs: how many processes.
        keep_observations: let outcomes hold what the policy saw.
        switching: sees every request and names its precision; it can be pickled.
        thresholds: of S, finest precision first, in place of the policy's own.

    Raises:
        VlaqError: the policy cannot be used.
    """
    parts = [episodes[start : start + PART] for start in range(0, len(episodes), PART)]
    pool = workers(jobs)
    try:
        running = [
            pool.submit(
                _play,
                model,
                precision,
                part,
                latency_s=latency_s,
                limit_s=limit_s,
                keep_observations=keep_observations,
                switching=switching,
                thresholds=thresholds,
            )
            for part in parts
        ]
        for done in as_completed(running):
            yield from done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def workers(jobs: int) -> Executor:
    """Start processes of one inference thread each."""
    return ProcessPoolExecutor(jobs, get_context("spawn"), _become_worker)


@contextmanager
def portable_errors() -> Iterator[None]:
    """Let a VlaqError leave a worker as its bare sentence: the facts of its class do not survive pickling."""
    try:
        yield
    except VlaqError as error:
        raise VlaqError(str(error)) from None


def _become_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a word; its owner has one
    torch.set_num_threads(1)
    os.environ["LP_NUM_THREADS"] = "0"  # Mesa's software renderer, too, keeps to this thread


@cache
def _engine(model: Path, full: bool) -> Engine:
    return Engine.load(model, full=full)


def _play(model: Path, precision: str, episodes: Sequence[tuple[int, str]], **how: Any) -> list[Outcome]:
    with portable_errors():
        engine = _engine(model, precision == FULL)
        robot, config = RobotConfig.load("sim_panda"), PilotConfig(precision=precision)
        return list(play(engine, robot, config, episodes, **how))
