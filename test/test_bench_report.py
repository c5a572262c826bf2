from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from vlaq_ros.bench.report import geometric_mean, last_line, markers, rewrite, tables
from vlaq_ros.errors import PageMarkersError

BEGIN, END = markers("bench")
PAGE = f"# Speed\n\nWhy.\n\n{BEGIN}\nold\n{END}\n\nWhat falls short.\n"


def ratio(median: float) -> dict[str, float]:
    return {"median": median, "low": median - 0.1, "high": median + 0.1}


def row(m: int, *, k: int, w8: float, threads: int = 1) -> dict[str, Any]:
    values: dict[str, Any] = {"n": 2048, "k": k, "m": m, "threads": threads, "rounds": 9, "left_out": {"slow": "it is"}}
    for bits in (8, 4):
        for key, rival in (
            (f"w{bits}_over_bf16", "bf16 eager"),
            (f"w{bits}_over_fp32", "fp32 eager"),
            (f"best_installable_w{bits}", "a rival"),
        ):
            values |= {key: w8, f"{key}_95": [w8 - 0.1, w8 + 0.1], f"{key}_path": rival}
    values["paths"] = {name: {"us": 100.0, "of_roof": 0.5} for name in ("vlaq W8A8", "vlaq W4A8", "a rival")}
    return values


def document() -> dict[str, Any]:
    speed_up = {f"coarse_over_{rival}": ratio(2.0) for rival in ("transformers", "full", "fine")}
    memory = {"over_bf16": {"linears": 0.5, "all": 0.6}, "resident_growth": 2**20}
    return {
        "machine": {
            "device": "cpu",
            "name": "a processor",
            "instructions": ["avx2"],
            "frequency": "governor not readable",
            "caches_bytes": {"L2": 2**20},
        },
        "versions": {"torch": "2", "transformers": "5"},
        "kernel": {"name": "x86 avx2", "layout": "tiles", "why": "It runs."},
        "granularity": {"a rival": "weights per channel"},
        "roofs": [
            {
                "threads": 1,
                "read_bytes_s": {"L2": 1e11, "memory": 2e10},
                "operations_s": {"fp32": 5e10, "bf16": 5e10, "int8": 1e11},
            }
        ],
        "linear": [row(1, k=2048, w8=1.0), row(1, k=4096, w8=4.0), row(1, k=512, w8=100.0)],
        "linear_embedded": [],
        "policies": [
            {
                "name": "tabletop_pi0",
                "threads": 1,
                "rounds": 9,
                "transformers": "transformers fp32 sdpa",
                "transformers_ms": {"transformers fp32 sdpa": 80.0, "transformers bf16 sdpa": 160.0},
                "ms": {"transformers fp32 sdpa": 80.0, "vlaq coarse": 40.0},
                "of_roof": {"vlaq coarse": 0.25},
                "speed_up": {"": speed_up},
                "shares": {"vlaq coarse": {"integer linears": 0.6, "attention": 0.4}},
                "memory": {"": memory},
            }
        ],
        "switch_us": ratio(1.5),
    }


def test_the_last_line_has_the_agreed_shape() -> None:
    line = json.loads(json.dumps(last_line(document())))
    assert list(line) == ["linear", "policy", "bytes_over_bf16", "switch_us"]
    agreed = {"n", "k", "m", "threads", "w8_over_bf16", "w4_over_bf16", "best_installable_w8", "best_installable_w4"}
    assert all(agreed <= set(cell) for cell in line["linear"])
    assert line["policy"] == {"coarse_over_transformers": 2.0, "coarse_over_full": 2.0, "coarse_over_fine": 2.0}
    assert line["bytes_over_bf16"] == {"linears": 0.5, "all": 0.6}
    assert line["switch_us"] == 1.5


def test_only_what_lies_between_the_markers_is_rewritten() -> None:
    once = rewrite(Path("page.md"), PAGE, "new", "bench")
    assert once == PAGE.replace("old", "new")
    assert rewrite(Path("page.md"), once, "new", "bench") == once


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}\n{BEGIN}\n"])
def test_a_page_without_its_markers_is_refused(text: str) -> None:
    with pytest.raises(PageMarkersError) as caught:
        rewrite(Path("page.md"), text, "new", "bench")
    assert str(caught.value) == (
        "page 'page.md' lacks the lines '<!-- vlaq bench: from here -->' and '<!-- vlaq bench: to here -->', in this "
        "order; add them where the tables belong"
    )


def test_a_geometric_mean_is_that_of_the_logarithms() -> None:
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0)


def test_targets_are_met_by_the_geometric_mean_over_large_layers() -> None:
    assert "| 1 | 2.2 | 2.00 | 2.00 | 2.00 |" in tables([document()])


def test_cells_that_fall_behind_the_best_installable_path_are_listed() -> None:
    text = tables([document()])
    assert "4 of 6 cells have a lower 95 % bound of 0.95 or more" in text
    assert "| W8A8 | 2048 x 2048 | 1 | 1 | 1.00 | 0.90 to 1.10 | a rival |" in text


def test_a_gpu_that_was_not_there_is_said_to_be_not_measured() -> None:
    assert "## CUDA\n\nNot measured" in tables([document()])
    measured = document()
    measured["machine"]["device"] = "cuda"
    assert "Not measured" not in tables([measured])


def test_tables_are_rectangular() -> None:
    lines = tables([document()]).splitlines()
    for first, second in pairwise(lines):
        if first.startswith("|") and second.startswith("|"):
            assert first.count("|") == second.count("|")
