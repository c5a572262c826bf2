"""The report of a calibration as one page of HTML that needs nothing else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import fields
from html import escape
from importlib.resources import files
from statistics import fmean
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from vlaq_ros.calibrate import figures
from vlaq_ros.calibrate.alignment import Drift, agreement
from vlaq_ros.calibrate.correlation import Correlation
from vlaq_ros.calibrate.pipeline import NAMES, REFINED
from vlaq_ros.calibrate.storage import WIDTHS
from vlaq_ros.calibrate.thresholds import Dispatch, Evidence, Whole
from vlaq_ros.evaluate.motion import PolicyMotion
from vlaq_ros.evaluate.statistics import wilson95
from vlaq_ros.evaluate.threshold_fit import NEVER

if TYPE_CHECKING:  # facts are plain; what gathers them needs the simulation
    from vlaq_ros.calibrate.calibration import Checks, Facts


def render(facts: Facts) -> str:
    """Lay out everything that is known; what is not gets no section but a line in the last one."""
    sections = [_head(facts), _widths(facts), _budget(facts)]
    if facts.checks:
        sections.append(_checks(facts.checks))
    if facts.calibrated.drifts:
        sections.append(_drift(facts.calibrated.drifts))
    if facts.calibrated.matchings:
        sections.append(_matching(facts))
    sections += [
        *_distribution(facts),
        _dispatch(facts),
        _memory(facts),
        _data(facts),
        _making(facts),
        _unmeasured(facts),
    ]
    template = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    return Template(template).substitute(title=escape(f"{facts.name}: calibration"), body="\n".join(sections))


def _head(facts: Facts) -> str:
    over_bf16, nmse = facts.memory.over_bf16, facts.calibrated.nmse
    answer, sentence = _answer(facts.dispatch)
    errors = [f"{math.sqrt(error):.1%} at {name}" for name, error in zip(NAMES, nmse, strict=True)]
    lead = [
        f"With all precisions resident, the quantized linears hold {over_bf16['linears']:.1%} of their bytes in bf16; "
        f"all weights together hold {over_bf16['all']:.1%}.",
        "From the same noise, actions differ from full precision's by "
        f"{' and '.join(errors)}, as root mean squares over the actions' own.",
        sentence,
    ]
    tiles = [
        (f"{over_bf16['linears']:.3f}", "bytes over bf16, quantized linears"),
        (f"{over_bf16['all']:.3f}", "bytes over bf16, all weights"),
        *(
            (f"{error:.2g}", f"squared action error at {name}, normalised")
            for name, error in zip(NAMES, nmse, strict=True)
        ),
        (answer, "switching precision"),
    ]
    boxes = "".join(f'<div class="tile"><b>{escape(value)}</b><span>{escape(of)}</span></div>' for value, of in tiles)
    return (
        f"<header><h1>{escape(facts.name)}</h1>"
        f'<p class="soft">Made of {escape(facts.source)} by recipe {escape(facts.recipe_name)}, '
        f"for a budget of {facts.budget:g}.</p>"
        f'<p class="lead">{escape(" ".join(lead))}</p><div class="tiles">{boxes}</div></header>'
    )


def _answer(dispatch: Dispatch) -> tuple[str, str]:
    """Say whether switching pays, in a word and in a sentence."""
    if dispatch.evidence is None:
        return "not known", "Whether switching between them pays is not known."
    if dispatch.static is None:
        return "pays", "Switching between them by the motion of the arm pays."
    return f"always {dispatch.static}", f"Switching between them does not pay: {dispatch.static} serves every chunk."


def _widths(facts: Facts) -> str:
    widths = facts.calibrated.allocation.widths
    counts = {name: Counter(each.tolist()) for name, each in widths.items()}
    total = Counter[int]()
    for each in counts.values():
        total.update(each)
    share = {width: total[width] / total.total() for width in WIDTHS}
    legend = "".join(
        f'<span><i style="background:{colour}"></i>{f"{width} bits" if width else "pruned"}: {share[width]:.1%}</span>'
        for width, colour in figures.WIDTH_COLOURS.items()
    )
    rows = [
        [name, each.total(), *(each[width] for width in WIDTHS), f"{_mean(each):.2f}"] for name, each in counts.items()
    ]
    table = _table(["linear", "channels", *(f"{width} bits" for width in WIDTHS), "mean"], rows)
    return _section(
        "Bits per channel",
        _text(f"Widths at {NAMES[0]}; at {NAMES[1]}, 4 bits are read of channels that have 8."),
        f'<div class="legend">{legend}</div>',
        _figure(
            figures.heat_map(widths),
            "A row is a layer, a stripe one of its linears with its output channels in order, stretched to one length; "
            "where channels are narrower than a pixel their colours mix. Beside it the mean of its bits. Of the last "
            "language layer, only keys and values count.",
        ),
        f"<details><summary>Every linear</summary>{table}</details>",
    )


def _mean(counts: Counter[int]) -> float:
    return sum(width * count for width, count in counts.items()) / counts.total()


def _budget(facts: Facts) -> str:
    said = [
        "The action error is the square of the difference of actions over that of full precision's, on the calibration "
        "observations and their noise."
    ]
    heads = ["budget", "bytes over bf16", *(f"measured at {name}" for name in NAMES)]
    rows = [
        [f"{point.budget:g}", f"{point.bytes_over_bf16:.4f}", *(f"{error:#.3g}" for error in point.nmse)]
        for point in facts.curve
    ]
    if predicted := [point.predicted for point in facts.curve if point.predicted is not None]:
        said.append(
            f"Predicted, of the weights at {NAMES[0]}, is the sum of the errors that parts make when each is narrowed "
            "alone; activations, and codes that make up for each other, are not in it."
        )
        heads.append("predicted")
        rows = [[*row, f"{error:#.3g}"] for row, error in zip(rows, predicted, strict=True)]
    drawn = []
    if len(facts.curve) > 1:
        caption = "The same recipe at other budgets; this bundle is ringed."
        drawn.append(_figure(figures.budget_curve(facts.curve, facts.budget, NAMES), caption))
    return _section("Budget and action error", _text(" ".join(said)), *drawn, _table(heads, rows))


def _checks(checks: Checks) -> str:
    said = (
        "Rank correlation of sensitivities to 4 bits, over channels from the least to the most sensitive; true passes "
        f"took {checks.observations} observations. Where a Jacobian is estimated and passes can take enough "
        f"observations, the sensitivities of the {REFINED} most sensitive channels are from true passes themselves."
    )
    rows = [
        [what, f"{each.spearman:.2f}", f"{each.low:.2f} to {each.high:.2f}", each.n]
        for what, each in (
            ("estimate against true forward passes", checks.exact),
            ("first step against accumulated over the chunk, both true", checks.cumulative),
        )
    ]
    return _section(
        "Are the sensitivities true?",
        _text(said),
        _table(["", "Spearman", "95 % interval", "channels"], rows),
    )


def _drift(drifts: Sequence[Drift]) -> str:
    heads = ["", "bits", "visual", "text", "action", "visual-text", "action-visual", "attention", "action error"]
    layers = [(drift.unit, drift.width, _measures(drift)) for drift in drifts]
    towers: dict[tuple[str, int], list[list[float]]] = {}
    for unit, width, measures in layers:
        towers.setdefault((unit.partition(".")[0], width), []).append(measures)
    means = [(tower, width, map(fmean, zip(*rows, strict=True))) for (tower, width), rows in towers.items()]
    by_tower, by_layer = (
        _table(heads, [[name, width, *(f"{value:.2g}" for value in values)] for name, width, values in rows])
        for rows in (means, layers)
    )
    return _section(
        "Alignment drift (EaqVLA-like reconstruction)",
        _text(
            "One layer at a time was rounded, the rest left in full precision, and the widths follow from what that "
            "moved. EaqVLA is known by its abstract alone: the measures are ours."
        ),
        by_tower,
        _text(
            "Visual, text and action: 1 - cos between a token and itself without rounding. Visual-text, between tokens "
            "in the language model, and action-visual, between queries and keys in the action expert: the change of "
            "all their cosines over their size, which is what decides the widths. Attention: divergence of what action "
            "tokens look at, in nats. All are means over observations and places, here over the layers of a tower."
        ),
        f"<details><summary>Every layer</summary>{by_layer}</details>",
        *(_text(_agreement(width, each)) for width, each in agreement(drifts).items()),
    )


def _measures(drift: Drift) -> list[float]:
    places = [drift.tokens[name] for name in ("visual", "text", "action")]
    places += [drift.relations[name] for name in ("language", "expert")]
    return [*map(fmean, places), fmean(drift.attention), drift.action_nmse]


def _agreement(width: int, found: Correlation) -> str:
    """Say in plain words whether relation drift ranks layers as their action error does."""
    verdict = "It is not known that layers whose relations drift more cost the action more"
    if found.low > 0:
        verdict = "Layers whose relations drift more cost the action more"
    elif found.high < 0:
        verdict = "Layers whose relations drift more cost the action less, so drift is a wrong guide to widths"
    return (
        f"{verdict}: with {width} bits, the rank correlation over {found.n} layers is {found.spearman:.2f} "
        f"(95 % interval {found.low:.2f} to {found.high:.2f})."
    )


def _matching(facts: Facts) -> str:
    rows = [
        [
            name,
            f"{each.before.logit:.4f}",
            f"{each.after.logit:.4f}",
            f"{each.before.residual:.4f}",
            f"{each.after.residual:.4f}",
            " and ".join(map(str, each.neutral)),
            " and ".join(map(str, each.clamped)),
        ]
        for name, each in zip(NAMES, facts.calibrated.matchings, strict=True)
    ]
    heads = [
        "precision",
        "logit gap before",
        "after",
        "residual gap before",
        "after",
        "α and β left at 1",
        "α and β at a bound",
    ]
    return _section(
        "Attention matching",
        _text(
            "Temperatures α of the action expert's heads and balances β of its attention's output restore the spread "
            "of the logits and the energy that full precision has; they are folded into the scales. A gap is the mean "
            "absolute logarithm of the ratio to full precision: 0 is none."
        ),
        _table(heads, rows),
        _figure(
            figures.corrections(facts.calibrated.matchings, NAMES),
            "The factors that are applied, at the heads and layers of the action expert.",
        ),
    )


def _distribution(facts: Facts) -> list[str]:
    seen = np.array([chunk.sensitivity for chunk in facts.chunks])
    known = seen[np.isfinite(seen)]
    if known.size:
        said = f"S at {known.size} chunks of the policy's own episodes at full precision, over the bands"
        beside = f" At {seen.size - known.size} more the motion was not known yet." if known.size < seen.size else ""
    elif isinstance(facts.buffer.motion, PolicyMotion):
        known, beside = facts.buffer.motion.sensitivities, ""
        said = f"S at {known.size} moments of the calibration data, over the bands"
    else:
        return []
    return [
        _section(
            "Sensitivity S of the motion",
            _figure(
                figures.distribution(known, facts.thresholds, NAMES),
                f"{said} in which each precision is asked for.{beside}",
            ),
        )
    ]


def _dispatch(facts: Facts) -> str:
    dispatch = facts.dispatch
    parts = [_text(dispatch.verdict)]
    if dispatch.wholes:
        parts.append(_wholes(dispatch.wholes))
    if dispatch.evidence:
        parts += _evidence(facts, dispatch.evidence)
    return _section("Does switching pay?", *parts)


def _wholes(wholes: Sequence[Whole]) -> str:
    heads = ["every chunk from", "successes", "95 % interval", f"less {NAMES[0]}'s", "at least (95 %)"]
    rows = [
        [
            whole.name,
            f"{whole.successes} of {whole.n}",
            "{:.1%} to {:.1%}".format(*wilson95(whole.successes, whole.n)),
            *(["", ""] if whole.name == NAMES[0] else [f"{whole.difference:+.1%}", f"{whole.bound:+.1%}"]),
        ]
        for whole in wholes
    ]
    return _table(heads, rows) + _text("Whole episodes of the simulated arm, on the same seeds and noise.")


def _evidence(facts: Facts, evidence: Evidence) -> list[str]:
    survived = sum(row.success for row in facts.injections)
    estimates = (
        ("S and cost s, ranks (Spearman)", evidence.spearman),
        ("S and cost s (Pearson)", evidence.pearson),
        ("S and the deviation itself, ranks", evidence.deviation),
    )
    return [
        _table(
            ["correlation", "value", "95 % interval"],
            [[what, f"{each.value:.2f}", f"{each.low:.2f} to {each.high:.2f}"] for what, each in estimates],
        ),
        _figure(
            figures.dispatch_map(facts.injections, evidence.curves, facts.thresholds),
            f"Left: {len(facts.injections)} times, an episode that succeeds at full precision was repeated with one "
            f"chunk at {facts.injections[0].precision}; {survived} succeeded. s is the distance between the final "
            "positions of the tool over the error of that chunk. Right: the error that keeps the end within the "
            f"{1e3 * evidence.curves.tolerated_m:.3g} mm up to which 95 % of the episodes succeed, and the "
            "errors that precisions make.",
        ),
    ]


def _memory(facts: Facts) -> str:
    memory = facts.memory
    rows = [
        ["quantized linears", _mib(memory.linears), _mib(memory.linears_bf16), f"{memory.over_bf16['linears']:.4f}"],
        ["all weights", _mib(memory.all), _mib(memory.all_bf16), f"{memory.over_bf16['all']:.4f}"],
    ]
    grown = [f"The process grew by {_mib(memory.resident_growth)} while the bundle was loaded"]
    if memory.device_growth:
        grown.append(f"what torch holds on the GPU by {_mib(memory.device_growth)}")
    return _section(
        "Memory",
        _text("Counted on the bundle as the robot loads it, all precisions together."),
        _table(["", "held", "in bf16", "held over bf16"], rows),
        _text(f"{', '.join(grown)}. The allocation counted on {facts.calibrated.allocation.bytes_over_bf16:.4f}."),
    )


def _data(facts: Facts) -> str:
    buffer = facts.buffer
    phases = list(dict.fromkeys(buffer.phases))
    instructions = [observation.instruction for observation in buffer.observations]
    counts = Counter(zip(instructions, buffer.phases, strict=True))
    rows = [
        [instruction, *(counts[instruction, phase] for phase in phases), instructions.count(instruction)]
        for instruction in dict.fromkeys(instructions)
    ]
    return _section(
        "Calibration data",
        _text(f"{len(instructions)} observations from {buffer.origin}, by instruction and phase of the motion."),
        _table(["instruction", *(phase or "phase not known" for phase in phases), "all"], rows),
        f'<p class="soft">sha256 <span class="hash">{buffer.sha256}</span></p>',
    )


def _making(facts: Facts) -> str:
    recipe = [
        [field.name.replace("_", " "), _plain(getattr(facts.recipe, field.name))] for field in fields(facts.recipe)
    ]
    asked = [*map(_threshold, facts.thresholds[:-1]), "the rest"]
    plans = zip(NAMES, facts.denoise_steps, asked, strict=True)
    seconds = [[stage, f"{value:.1f}"] for stage, value in facts.seconds.items()]
    tables = (
        _table(["recipe", facts.recipe_name], recipe),
        _table(["stage", "s"], [*seconds, ["all", f"{sum(facts.seconds.values()):.1f}"]]),
        _table(["precision", "denoising steps", "where S is"], list(plans)),
    )
    return _section(
        "How it was made",
        f'<div class="columns">{"".join(tables)}</div>',
        _text(
            f"The process was resident with {_mib(facts.peak_bytes)} at most. Steps taken over from an interrupted run "
            "took no time."
        ),
        f'<p class="soft">Source checkpoint, sha256 <span class="hash">{escape(facts.source_sha256)}</span></p>',
    )


def _threshold(value: float) -> str:
    if value >= NEVER:
        return "nowhere"
    return f"above {value:g}" if value >= 0 else "anywhere"


def _plain(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _unmeasured(facts: Facts) -> str:
    lines = ["Time of a chunk: vlaq bench measures it."]
    if not facts.dispatch.wholes:
        lines.append("Success of episodes at these precisions: vlaq rollout measures it.")
    if facts.calibrated.predicted is None:
        lines.append(f"Predicted action error: recipe {facts.recipe_name} predicts none.")
    if len(facts.curve) == 1:
        lines.append("Other budgets: the recipe reaches none of those tried.")
    if not facts.checks:
        lines.append(f"Sensitivity of channels: recipe {facts.recipe_name} estimates none.")
    if not facts.calibrated.matchings:
        lines.append(
            f"Spread of attention's logits and energy of its output: recipe {facts.recipe_name} does not match them."
        )
    if not facts.dispatch.evidence:
        lines.append("What an error costs at which S: no chunk of low precision was injected.")
    if not facts.memory.device_growth:
        lines.append("Memory of a GPU: the bundle was loaded on a CPU.")
    return _section("Not measured", f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>")


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def _text(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    def line(cells: Sequence[Any], kind: str) -> str:
        return f"<tr>{''.join(f'<{kind}>{escape(str(cell))}</{kind}>' for cell in cells)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f'<div class="scroll"><table><thead>{line(heads, "th")}</thead><tbody>{body}</tbody></table></div>'


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
