from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaq_ros.bench.node import summary, tables
from vlaq_ros.cli.main import USER_ERROR, main

MS = 1_000_000


def seen(*, arrived_ms: int = 3, due_ms: int = 13, decode_ms: int = 2, count: int = 4) -> dict[str, Any]:
    """Commands a second apart; each takes over 40 ms of inference after decoding, and arrives 5 ms after that."""
    steps, arrivals, received = [], {}, {}
    for number in range(count):
        stamp = number * 1000 * MS
        taken = stamp + (max(arrived_ms, due_ms) + decode_ms + 40) * MS
        arrivals[str(stamp)] = stamp + arrived_ms * MS  # keys are text, as JSON has them
        received[taken] = taken + 5 * MS
        steps.append(
            {
                "stamp_ns": stamp,
                "due_ns": stamp + due_ms * MS,
                "taken_ns": taken,
                "done_ns": taken + 3 * MS,
                "inference_s": 0.040,
                "inference_cpu_s": 0.030,
                "thread": 12,
            }
        )
    return {
        "arrivals_ns": arrivals,
        "received_ns": received,
        "steps": steps,
        "begin_ns": 0,
        "end_ns": count * 1000 * MS,
        "threads_s": {10: 0.8, 11: 0.12, 12: 0.2},
    }


def test_waiting_and_inference_are_no_part_of_the_path() -> None:
    found = summary(seen())
    medians = {name: found[f"{name}_p50"] for name in ("path_ms", "transport_ms", "waiting_ms", "before_ms")}
    assert medians == pytest.approx({"path_ms": 10.0, "transport_ms": 3.0, "waiting_ms": 10.0, "before_ms": 2.0})
    assert found["total_ms_p50"] == pytest.approx(60.0)


def test_an_image_that_comes_when_an_inference_is_due_already_does_not_wait() -> None:
    found = summary(seen(arrived_ms=13, due_ms=10))
    assert found["waiting_ms_p99"] == 0.0
    assert found["path_ms_p99"] == pytest.approx(13 + 2 + 5)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 20))
def test_the_parts_add_up(arrived_ms: int, due_ms: int, decode_ms: int) -> None:
    found = summary(seen(arrived_ms=arrived_ms, due_ms=due_ms, decode_ms=decode_ms))
    path = sum(found[f"{part}_ms_p50"] for part in ("transport", "before", "motion", "after"))
    assert found["path_ms_p50"] == pytest.approx(path)
    assert found["total_ms_p50"] == pytest.approx(path + found["waiting_ms_p50"] + found["inference_ms_p50"])


def test_the_nodes_own_time_is_all_but_inference() -> None:
    found = summary(seen())
    cores = {name: found[f"{name}_cpu"] for name in ("own", "executor", "thinking", "middleware", "inference")}
    assert cores == pytest.approx(
        {"own": 0.25, "executor": 0.2, "thinking": 0.02, "middleware": 0.03, "inference": 0.03}
    )


def test_what_came_before_or_after_is_left_out() -> None:
    measured = seen() | {"begin_ns": 500 * MS, "end_ns": 2500 * MS}
    found = summary(measured)
    assert (found["commands"], found["images_hz"], found["seconds"]) == (2, 1.0, 2.0)


def test_the_tables_hold_the_targets_against_what_is_shipped() -> None:
    slow = summary(seen(decode_ms=30))
    text = tables({"machine": {"name": "a processor"}, "node": {"as shipped": summary(seen()), "otherwise": slow}})
    assert text.startswith("a processor; 4 commands in 4 s, 1.0 images per second.")
    assert "| path, p99, ms | 10.00 | 10 |" in text
    assert "| the node's own CPU, cores | 0.25 | 0.3 |" in text
    assert "| otherwise | 38.0 | 38.0 | 38.0 |" in text


def test_a_page_without_the_nodes_markers_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- vlaq bench: from here -->\n<!-- vlaq bench: to here -->\n")
    assert main(["bench", "--node", "--page", str(page)]) == USER_ERROR
    assert "lacks the lines '<!-- vlaq bench --node: from here -->'" in capsys.readouterr().err
