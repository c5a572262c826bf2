"""What a benchmark found, as tables for docs/performance.md and as one line of JSON. No number is typed by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from vlaq_ros.errors import PageMarkersError

_LARGE = 1024  # features from which the targets count a layer
_PARITY = 0.95  # that the lower bound of a ratio to the best installable path must reach
_SEEN = 0.005  # shares of time below are not told
_TARGETS = {  # on a machine with AMX: rows -> speed-up over prepacked bf16
    8: {1: 2.2, 16: 1.6, 51: 1.45, 300: 1.6, 816: 1.35},
    4: {1: 3.4, 16: 2.1, 51: 1.75, 300: 1.7, 816: 1.35},
}
_BYTES_TARGETS = {"": 0.505, "budget": 0.305}  # of the linears, by what is special of a bundle
_RATIOS = ("w8_over_bf16", "w4_over_bf16", "w8_over_fp32", "w4_over_fp32")
_BEST = ("best_installable_w8", "best_installable_w4")
_LINE_KEYS = ("n", "k", "m", "threads", *_RATIOS, *_BEST, "w8_over_bf16_path", *(f"{key}_path" for key in _BEST))
_POLICY_KEYS = ("coarse_over_transformers", "coarse_over_full", "coarse_over_fine")


def last_line(document: Mapping[str, Any]) -> dict[str, Any]:
    """Give what the last line of `vlaq bench` says: the embedded policy, and all linear layers."""
    embedded = document["policies"][0]
    return {
        "linear": [{key: row[key] for key in _LINE_KEYS} for row in document["linear"]],
        "policy": {key: embedded["speed_up"][""][key]["median"] for key in _POLICY_KEYS},
        "bytes_over_bf16": embedded["memory"][""]["over_bf16"],
        "switch_us": document["switch_us"]["median"],
    }


def markers(command: str) -> tuple[str, str]:
    """Name the lines of a page between which a command writes."""
    return f"<!-- vlaq {command}: from here -->", f"<!-- vlaq {command}: to here -->"


def rewrite(page: Path, text: str, tables: str, command: str) -> str:
    """Put the tables of a command between its markers in the text of a page.

    Raises:
        PageMarkersError: a marker is missing, or they are out of order.
    """
    first, last = markers(command)
    head, begin, rest = text.partition(first)
    _, end, tail = rest.partition(last)
    if not begin or not end:
        raise PageMarkersError(page, first, last)
    return f"{head}{begin}\n{tables}\n{end}{tail}"


def tables(documents: Iterable[Mapping[str, Any]]) -> str:
    """Lay out all that was measured, a chapter for each device; CUDA has one also where it was not measured."""
    by_device = {document["machine"]["device"]: document for document in documents}
    chapters = [line for document in by_device.values() for line in _chapter(document)]
    if "cuda" not in by_device:
        chapters += ["## CUDA", "", "Not measured: no GPU was at hand. `vlaq bench --device cuda` measures it.", ""]
    return "\n".join(chapters).rstrip()


def geometric_mean(values: Iterable[float]) -> float:
    """Give the n-th root of the product of n values."""
    return float(np.exp(np.mean(np.log(list(values)))))


def _chapter(document: Mapping[str, Any]) -> list[str]:
    return [
        f"## {'CUDA' if document['machine']['device'] == 'cuda' else 'CPU'}",
        "",
        *_machine(document),
        *_targets(document),
        *_linears(document),
        *_policies(document["policies"]),
        *_paths(document),
    ]


def _machine(document: Mapping[str, Any]) -> list[str]:
    machine = document["machine"]
    caches = ", ".join(f"{level} {size / 2**20:g} MB" for level, size in machine["caches_bytes"].items())
    rows = [
        [
            str(roof["threads"]),
            *(f"{rate / 1e9:.0f}" for rate in roof["read_bytes_s"].values()),
            *(f"{rate / 1e9:.0f}" for rate in roof["operations_s"].values()),
        ]
        for roof in document["roofs"]
    ]
    levels, kinds = document["roofs"][0]["read_bytes_s"], document["roofs"][0]["operations_s"]
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    return [
        f"{machine['name']}; {' '.join(machine['instructions'])}; {caches}; {machine['frequency']}; {versions}. "
        f"Kernel: **{document['kernel']['name']}**. {document['kernel']['why']}",
        "",
        *table(["threads", *(f"{level}, GB/s" for level in levels), *(f"{kind}, GOP/s" for kind in kinds)], rows),
    ]


def _targets(document: Mapping[str, Any]) -> list[str]:
    """Hold the geometric means over the large layers on one thread against the targets."""
    large = [row for row in document["linear"] if row["threads"] == 1 and row["k"] >= _LARGE]
    lines = ["### Targets", ""]
    for bits, targets in _TARGETS.items() if large else ():
        keys = (f"w{bits}_over_bf16", f"w{bits}_over_fp32", f"best_installable_w{bits}")
        rows = []
        for m in sorted({row["m"] for row in large}):
            of_m = [[row[key] for row in large if row["m"] == m and row[key]] for key in keys]
            means = [f"{geometric_mean(values):.2f}" if values else "-" for values in of_m]
            rows.append([str(m), f"{targets[m]:g}" if m in targets else "-", *means])
        heads = ["M", "target over bf16", "over the best bf16", "over the best fp32", "over the best installable"]
        lines += [f"W{bits}A8, one thread, geometric mean over the layers with K of {_LARGE} or more:", ""]
        lines += table(heads, rows)
    every = [
        (row, bits, row[f"best_installable_w{bits}_95"][0])
        for row in document["linear"]
        for bits in _TARGETS
        if row[f"best_installable_w{bits}"]
    ]
    behind = [cell for cell in every if cell[2] < _PARITY]
    lines += [
        f"Against the best installable path of the same width, {len(every) - len(behind)} of {len(every)} cells have a "
        f"lower 95 % bound of {_PARITY} or more.",
        "",
    ]
    if behind:
        lines += table(
            ["behind", "N x K", "M", "threads", "ratio", "95 %", "against"],
            [
                [
                    f"W{bits}A8",
                    f"{row['n']} x {row['k']}",
                    str(row["m"]),
                    str(row["threads"]),
                    f"{row[f'best_installable_w{bits}']:.2f}",
                    _interval(row[f"best_installable_w{bits}_95"]),
                    row[f"best_installable_w{bits}_path"],
                ]
                for row, bits, _ in behind
            ],
        )
    return lines


def _linears(document: Mapping[str, Any]) -> list[str]:
    lines = ["### Linear layers", ""]
    for threads, rows in _grouped(document["linear"], "threads"):
        lines += [f"{threads} thread{'s' if threads > 1 else ''}; µs, and in brackets the share of the roofline:", ""]
        body = []
        for row in rows:
            ours = [row["paths"][name] for name in ("vlaq W8A8", "vlaq W4A8")]
            body.append(
                [
                    f"{row['n']} x {row['k']}",
                    str(row["m"]),
                    *(f"{path['us']:.0f} ({path['of_roof']:.0%})" for path in ours),
                    *(_ratio(row, key) for key in _RATIOS),
                    *(f"{_ratio(row, key)} {row[f'{key}_path']}" for key in _BEST),
                ]
            )
        heads = ["N x K", "M", "W8A8", "W4A8", "W8 / bf16", "W4 / bf16", "W8 / fp32", "W4 / fp32"]
        lines += table([*heads, "W8 / best installable", "W4 / best installable"], body)
    return lines


def _policies(policies: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["### Policies end to end", ""]
    for policy in policies:
        lines += [f"**{policy['name']}**, {policy['threads']} thread{'s' if policy['threads'] > 1 else ''}:", ""]
        best = policy["ms"][policy["transformers"]]
        rows = []
        for name, ms in policy["ms"].items():
            shares = policy["shares"].get(name, {})
            parts = ", ".join(f"{what} {share:.0%}" for what, share in shares.items() if share >= _SEEN)
            of_roof = f"{policy['of_roof'][name]:.0%}" if name in policy["of_roof"] else ""
            rows.append([name, f"{ms:.1f}", f"{best / ms:.2f}", of_roof, parts])
        for name, ms in policy["transformers_ms"].items():
            if name not in policy["ms"]:
                rows.append([f"{name} (few calls)", f"{ms:.1f}", f"{best / ms:.2f}", "", ""])
        heads = ["path", "ms", "over the best of transformers", "of the roofline of its linears", "where its time goes"]
        lines += table(heads, rows)
        lines += table(
            ["ratio", "speed-up", "95 %"],
            [
                [
                    f"{kind} {key.replace('_', ' ')}".strip(),
                    f"{value['median']:.2f}",
                    _interval([value["low"], value["high"]]),
                ]
                for kind, values in policy["speed_up"].items()
                for key, value in values.items()
            ],
        )
        lines += table(
            ["held", "linears / bf16", "target", "all / bf16"],
            [
                [
                    kind or "fine and coarse",
                    f"{memory['over_bf16']['linears']:.3f}",
                    f"{_BYTES_TARGETS[kind]:g}" if kind in _BYTES_TARGETS else "",
                    f"{memory['over_bf16']['all']:.3f}",
                ]
                for kind, memory in policy["memory"].items()
            ],
        )
    return lines


def _paths(document: Mapping[str, Any]) -> list[str]:
    """Tell of every path: how its numbers are quantized, and all times."""
    lines = ["### Every path", ""]
    lines += table(["path", "granularity"], [[name, text] for name, text in document["granularity"].items() if text])
    for (threads, n, k), rows in _grouped(document["linear"] + document["linear_embedded"], "threads", "n", "k"):
        names = list(dict.fromkeys(name for row in rows for name in (*row["paths"], *row["left_out"])))
        body = [[name, *(_cell(row, name) for row in rows)] for name in names]
        lines += [f"{n} x {k}, {threads} thread{'s' if threads > 1 else ''}, µs:", ""]
        lines += table(["path", *(f"M = {row['m']}" for row in rows)], body)
    reasons = {name: why for row in document["linear"] for name, why in row["left_out"].items()}
    if reasons:
        lines += ["Left out (an example of each):", "", *table(["path", "why"], [[*pair] for pair in reasons.items()])]
    return lines


def _ratio(row: Mapping[str, Any], key: str) -> str:
    return f"{row[key]:.2f} [{_interval(row[f'{key}_95'])}]" if row[key] else "-"


def _cell(row: Mapping[str, Any], name: str) -> str:
    if name in row["paths"]:
        return f"{row['paths'][name]['us']:.0f}"
    return "left out"


def _grouped(rows: Sequence[Mapping[str, Any]], *keys: str) -> list[tuple[Any, list[Mapping[str, Any]]]]:
    def key(row: Mapping[str, Any]) -> Any:
        values = tuple(row[name] for name in keys)
        return values if len(values) > 1 else values[0]

    return [(value, list(group)) for value, group in groupby(rows, key=key)]


def _interval(bounds: Sequence[float]) -> str:
    return f"{bounds[0]:.2f} to {bounds[1]:.2f}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out a Markdown table, with an empty line after it."""
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)] + [""]
