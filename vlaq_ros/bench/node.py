"""How fast the node is around the policy: what a trace of `ros.traced_pilot` under `ros.load` says.

Every command answers an image with a stamp. Before it, the image reached the node's middleware (A) and an inference was
found to be due (B); afterwards, the command reached the controller's middleware (R). Waiting, from A to B, is no work:
cameras and inference have their own periods. The path is the rest, (A - stamp) + (R - the later of A and B), less the
inference: what is left is transport, decoding, splicing, safety, encoding and every change of threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlaq_ros.bench.report import table

_TARGETS = {"path_ms_p99": ("path, p99, ms", 10.0), "own_cpu": ("the node's own CPU, cores", 0.30)}  # at most
_PERCENTS = (50, 95, 99)
_PARTS = {
    "path_ms": "path: all but inference and waiting",
    "transport_ms": "image to the node",
    "waiting_ms": "waiting until an inference is due",
    "before_ms": "due to inference: thread, decoding",
    "inference_ms": "inference",
    "motion_ms": "splicing and safety",
    "after_ms": "sending: thread, encoding, transport",
    "total_ms": "image to command",
}
_CORES = {
    "own_cpu": "the node's own, all but inference",
    "executor_cpu": "its executor thread",
    "thinking_cpu": "inference thread, outside inference",
    "middleware_cpu": "threads of DDS and others",
    "inference_cpu": "inference",
}


def tables(document: Mapping[str, Any]) -> str:
    """Lay out a document: targets, the parts of the path as shipped, and every way of running the node beside it."""
    ways: Mapping[str, Mapping[str, float]] = document["node"]
    shipped = next(iter(ways.values()))
    percents = [f"p{percent}" for percent in _PERCENTS]
    lines = [
        f"{document['machine']['name']}; {shipped['commands']:.0f} commands in {shipped['seconds']:.0f} s, "
        f"{shipped['images_hz']:.1f} images per second.",
        "",
        *table(
            ["as shipped", "measured", "at most"],
            [[said, f"{shipped[key]:.2f}", f"{most:g}"] for key, (said, most) in _TARGETS.items()],
        ),
        *table(
            ["as shipped, ms", *percents],
            [[said, *(f"{shipped[f'{part}_{p}']:.1f}" for p in percents)] for part, said in _PARTS.items()],
        ),
        *table(
            ["", *(f"path, {p}, ms" for p in percents), *(f"{said}, cores" for said in _CORES.values())],
            [[name, *_row(found, percents)] for name, found in ways.items()],
        ),
    ]
    return "\n".join(lines).rstrip()


def _row(found: Mapping[str, float], percents: Sequence[str]) -> list[str]:
    return [*(f"{found[f'path_ms_{p}']:.1f}" for p in percents), *(f"{found[key]:.3f}" for key in _CORES)]


def summary(seen: Mapping[str, Any]) -> dict[str, float]:
    """Sum up a measurement.

    Args:
        seen: what `ros.load.measure` gives; times in ns, all of one clock.

    Returns:
        `NAME_p50`, `_p95` and `_p99` of every part of the path, ms; CPU time of the process over the time that was
        measured, in cores; and how many commands and images per second there were.
    """
    steps = [step for step in seen["steps"] if seen["begin_ns"] <= step["taken_ns"] <= seen["end_ns"]]
    seconds = (seen["end_ns"] - seen["begin_ns"]) * 1e-9
    arrivals = {int(stamp): at for stamp, at in seen["arrivals_ns"].items()}
    received = {int(taken): at for taken, at in seen["received_ns"].items()}
    parts = [_parts(step, arrivals, received) for step in steps if step["taken_ns"] in received]
    found = {
        f"{name}_p{percent}": float(np.percentile([part[name] for part in parts], percent))
        for name in _PARTS
        for percent in _PERCENTS
    }
    threads_s = {int(thread): spent_s for thread, spent_s in seen["threads_s"].items()}
    executor_s, thinking_s = threads_s[min(threads_s)], threads_s[int(steps[-1]["thread"])]
    inference_s = sum(step["inference_cpu_s"] for step in steps)
    total_s = sum(threads_s.values())
    images = sum(seen["begin_ns"] <= at <= seen["end_ns"] for at in arrivals.values())
    return {
        **found,
        "own_cpu": (total_s - inference_s) / seconds,
        "executor_cpu": executor_s / seconds,
        "thinking_cpu": (thinking_s - inference_s) / seconds,
        "middleware_cpu": (total_s - executor_s - thinking_s) / seconds,
        "inference_cpu": inference_s / seconds,
        "commands": float(len(parts)),
        "images_hz": images / seconds,
        "seconds": seconds,
    }


def _parts(step: Mapping[str, float], arrivals: Mapping[int, int], received: Mapping[int, int]) -> dict[str, float]:
    """Split the way from an image to its command, ms."""
    stamp_ns, taken_ns = int(step["stamp_ns"]), int(step["taken_ns"])
    arrived_ns, received_ns = arrivals[stamp_ns], received[taken_ns]
    begun_ns = max(arrived_ns, step["due_ns"])
    inference_ns = step["inference_s"] * 1e9
    durations_ns = {
        "path_ms": arrived_ns - stamp_ns + received_ns - begun_ns - inference_ns,
        "transport_ms": arrived_ns - stamp_ns,
        "waiting_ms": begun_ns - arrived_ns,
        "before_ms": taken_ns - inference_ns - begun_ns,
        "inference_ms": inference_ns,
        "motion_ms": step["done_ns"] - taken_ns,
        "after_ms": received_ns - step["done_ns"],
        "total_ms": received_ns - stamp_ns,
    }
    return {name: duration_ns * 1e-6 for name, duration_ns in durations_ns.items()}
