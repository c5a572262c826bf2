"""The client of an evaluation, against stand-ins for both nodes that note what reaches them and in which order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from node_bench import DOMAIN_ID
from stand_ins import Stage, staged

from vlaq_ros.ros import episodes
from vlaq_ros.ros.episodes import EpisodeClient, NotCommandingError
from vlaq_ros.ros.station import Station


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(episodes, "SETTLE_S", 0.1)
    yield from staged(monkeypatch)


def test_episodes_run_with_the_pilot_disabled_during_the_reset(stage: Stage) -> None:
    with Station("client", domain_id=DOMAIN_ID) as station:
        client = EpisodeClient(station)
        client.wait_until_ready()
        stage.pilot.on_chunk = lambda: stage.scene.succeed("red" in stage.pilot.instruction)
        assert client.run(7, "pick up the red cube")
        assert client.status.precision == "auto"
        assert client.status.inference_ms == 40.0
        assert not client.run(8, "pick up the blue cube", limit_s=0.3)
    assert stage.pilot.log == [
        "configured with one",
        "enabled",
        "told 'pick up the red cube'",
        "told ''",
        "disabled",
        "enabled",
        "told 'pick up the blue cube'",
        "told ''",
    ]
    assert list(dict.fromkeys(stage.scene.log)) == ["7: pick up the red cube", "8: pick up the blue cube"]


def test_a_stopped_pilot_is_told(stage: Stage) -> None:
    stage.pilot.stop("~/stop was called")
    with Station("client", domain_id=DOMAIN_ID) as station:
        client = EpisodeClient(station)
        client.wait_until_ready()
        with pytest.raises(NotCommandingError) as refusal:
            client.run(7, "pick up the red cube")
    assert str(refusal.value) == "/pilot does not command: stopped: ~/stop was called; call ~/release"
