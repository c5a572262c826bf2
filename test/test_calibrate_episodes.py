"""Whole episodes of a checkpoint and its bundle meet on the same seeds, in whatever order they end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlaq_ros.calibrate import episodes as module
from vlaq_ros.calibrate.episodes import whole_episodes
from vlaq_ros.evaluate.rollout import Outcome

EPISODES = [(seed, "pick up the red cube") for seed in (8, 3, 5)]
NOTHING = np.zeros(0)


def test_outcomes_are_put_in_the_order_of_the_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    def share_out(model: Path, precision: str, episodes: list[tuple[int, str]], **_: Any) -> Iterator[Outcome]:
        """Seed 3 fails on the checkpoint; on the bundle, only seed 3 succeeds."""
        for seed, instruction in sorted(episodes):
            success = (seed == 3) == (model == Path("bundle"))
            yield Outcome(seed, instruction, success, (precision,), NOTHING, NOTHING, NOTHING)

    monkeypatch.setattr(module, "share_out", share_out)
    done: list[int] = []
    found = whole_episodes(Path("source"), Path("bundle"), ["fine", "auto"], EPISODES, jobs=1, report=done.append)
    assert {name: successes.tolist() for name, successes in found.items()} == {
        "full": [True, False, True],
        "fine": [False, True, False],
        "auto": [False, True, False],
    }
    assert sum(done) == 9
