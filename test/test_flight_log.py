"""What a flight counts: shares, percentiles of the newest latencies, limits by kind."""

from __future__ import annotations

import numpy as np
import pytest

from vlaq_ros.datatypes import Command, Decision, Trajectory, Violations
from vlaq_ros.flight_log import LATENCIES, FlightLog


def command(precision: str, violations: Violations | None = None) -> Command:
    trajectory = Trajectory(0, ("a",), np.zeros(1, dtype=np.int64), np.zeros((1, 1)))
    return Command(trajectory, Decision(precision, 0.0, ""), 0, 0.1, violations or Violations())


def test_nothing_is_known_before_the_second_command() -> None:
    log = FlightLog()
    assert log.precision_shares() == {}
    log.command(command("fine"), latency_s=9.0)
    assert np.isnan(log.latency_s(50))
    assert log.precision_shares() == {"fine": 1.0}


def test_percentiles_are_of_the_newest_without_the_first() -> None:
    log = FlightLog()
    log.command(command("fine"), latency_s=9.0)
    for index in range(LATENCIES):
        log.command(command("coarse"), latency_s=float(index))
    assert log.latency_s(50) == pytest.approx((LATENCIES - 1) / 2)
    for _ in range(LATENCIES):
        log.command(command("fine"), latency_s=0.5)
    assert (log.latency_s(50), log.latency_s(95)) == (0.5, 0.5)
    assert log.precision_shares() == pytest.approx({"fine": 101 / 201, "coarse": 100 / 201})


def test_limits_are_summed_by_kind() -> None:
    log = FlightLog()
    log.command(command("fine", Violations(velocity=3, workspace=1)), latency_s=0.1)
    log.command(command("fine", Violations(velocity=2)), latency_s=0.1)
    assert {kind: count for kind, count in log.violations.items() if count} == {"velocity": 5, "workspace": 1}
