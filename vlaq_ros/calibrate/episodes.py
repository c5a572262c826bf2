"""Whole episodes of the simulated arm at every precision, on the same seeds: what a plan is judged by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vlaq_ros.config import LATENCY_S
from vlaq_ros.evaluate.parallel import share_out
from vlaq_ros.evaluate.referee import TIME_LIMIT_S
from vlaq_ros.evaluate.statistics import BoolArray
from vlaq_ros.policy.engine import FULL


def whole_episodes(
    checkpoint: Path,
    bundle: Path,
    precisions: Sequence[str],
    episodes: Sequence[tuple[int, str]],
    *,
    jobs: int,
    report: Callable[[int], None],
) -> dict[str, BoolArray]:
    """Play the same episodes at full precision and at every other.

    Args:
        checkpoint: directory of the bundle's source.
        bundle: directory.
        precisions: names of the bundle's, or `auto`.
        episodes: a seed and an instruction each.
        jobs: processes.
        report: called with the number of episodes done since the last call, `(1 + len(precisions)) * len(episodes)` in
            all.

    Returns:
        Name -> successes [N], in the order of the episodes; `full` first.
    """
    successes = {}
    for name in (FULL, *precisions):
        model = checkpoint if name == FULL else bundle
        ended = {}
        for outcome in share_out(model, name, episodes, latency_s=LATENCY_S, limit_s=TIME_LIMIT_S, jobs=jobs):
            ended[outcome.seed] = outcome.success
            report(1)
        successes[name] = np.array([ended[seed] for seed, _ in episodes])
    return successes
