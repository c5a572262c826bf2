from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import INSTRUCTIONS

from vlaq_ros.bench.node import summary
from vlaq_ros.ros import domain
from vlaq_ros.ros.load import measure
from vlaq_ros.ros.traced_pilot import AS_SHIPPED

DOMAIN_ID = domain.claim()


def test_a_pilot_process_flies_under_load_and_is_timed(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ROS_AUTOMATIC_DISCOVERY_RANGE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        monkeypatch.setenv(name, "")  # which `measure` sets, and is undone after the test
    found = summary(measure(tiny_bundle, INSTRUCTIONS[0], AS_SHIPPED, 2.0, DOMAIN_ID))
    assert found["commands"] >= 1
    assert found["images_hz"] > 0
    assert 0 < found["path_ms_p50"] < found["total_ms_p50"]
    assert 0 < found["own_cpu"] < os.cpu_count()  # type: ignore[operator]  # which this machine knows
