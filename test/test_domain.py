"""ROS domains that processes claim for themselves."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vlaq_ros.ros import domain

CLAIM = "from vlaq_ros.ros import domain; print(domain.claim(), flush=True); input()"


def test_no_two_processes_have_the_same_domain_until_one_ends() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CLAIM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        theirs = int(other.stdout.readline())
        ours = {domain.claim() for _ in range(3)}
        assert len(ours) == 3
        assert ours <= set(range(1, domain.LAST + 1)) - {theirs}
        other.kill()


def test_where_every_domain_is_taken_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain, "LAST", 0)
    with pytest.raises(domain.NoDomainError, match="all ROS domains from 1 to 0 are taken on this machine; end a demo"):
        domain.claim()
