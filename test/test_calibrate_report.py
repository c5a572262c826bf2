"""The report of a calibration says what is known, draws what was allocated, and names what was not measured."""

from __future__ import annotations

import base64
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from sources import PACKAGE, setup_arguments

from vlaq_ros.calibrate import figures, report
from vlaq_ros.calibrate.alignment import Drift
from vlaq_ros.calibrate.allocate import Allocation
from vlaq_ros.calibrate.buffer import Buffer
from vlaq_ros.calibrate.calibration import Checks, Facts, Point
from vlaq_ros.calibrate.correlation import Correlation
from vlaq_ros.calibrate.injection import Chunk, Injection
from vlaq_ros.calibrate.matching import Gaps, Matching
from vlaq_ros.calibrate.pipeline import NAMES, Calibrated
from vlaq_ros.calibrate.recipes import RECIPES
from vlaq_ros.calibrate.storage import WIDTHS
from vlaq_ros.calibrate.thresholds import by_error_bound, by_percentile, unchanged
from vlaq_ros.calibrate.verdict import judge
from vlaq_ros.datatypes import FloatArray, MotionScales, Observation
from vlaq_ros.evaluate.motion import PolicyMotion
from vlaq_ros.evaluate.statistics import BoolArray
from vlaq_ros.policy import document, pi0
from vlaq_ros.policy.checkpoint import Checkpoint
from vlaq_ros.policy.memory import Memory

ALWAYS = ["Bits per channel", "Budget and action error"]
LAST = ["Memory", "Calibration data", "How it was made", "Not measured"]
SWITCHED = ["Sensitivity S of the motion", "Does switching pay?"]
MANY, FEW = RECIPES["channelwise+matching"], RECIPES["rtn"]
ANYTHING = {  # the keys of report.json
    key: lambda value: value
    for key in (
        *("name", "source", "recipe", "budget", "precisions", "layers", "curve", "checks", "drift", "matching"),
        *("dispatch", "chunks", "injections", "memory", "buffer", "seconds", "peak_bytes"),
    )
}


class Reader(HTMLParser):
    """Collects headings, text and attributes; every element that is opened must be closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.words: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def widths_of(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Draw a width for every output channel."""
    random = torch.Generator().manual_seed(0)
    return {
        name.removesuffix(".weight"): torch.tensor(WIDTHS)[torch.randint(4, shape[:1], generator=random)]
        for name, shape in pi0.shapes(checkpoint.config).items()
        if pi0.is_quantized_weight(name)
    }


def episodes() -> tuple[tuple[Chunk, ...], tuple[Injection, ...]]:
    """Ten episodes of ten chunks, each injected into; errors cost more where S is high, and the first S is unknown."""
    chunks = tuple(
        Chunk(k // 10, "", k % 10, 0.0, "", (k % 10) / 10 if k else math.nan, {"fine": 0.1, "coarse": 2.0})
        for k in range(100)
    )
    costs_m = [0.0 if chunk.index < 2 else 0.01 * chunk.index for chunk in chunks]
    return chunks, tuple(
        Injection(chunk, "coarse", cost, cost < 0.05) for chunk, cost in zip(chunks, costs_m, strict=True)
    )


def played(**successes: int) -> dict[str, BoolArray]:
    """Whole episodes, of which the first so many of 200 succeeded."""
    return {name: np.arange(200) < count for name, count in successes.items()}


@pytest.fixture(scope="module")
def full(tiny_checkpoint: Path) -> Facts:
    """Facts of a recipe that measures everything there is."""
    checkpoint = Checkpoint.open(tiny_checkpoint)
    spec = checkpoint.spec
    image = np.zeros((4, 4, 3), np.uint8)
    seen = [("put a < b & c", "slow"), ("put a < b & c", "fast"), ("pick", "slow"), ("pick", "slow")]
    observations = tuple(
        Observation(k, {"front": image}, spec.joint_names, spec.state_mean, text) for k, (text, _) in enumerate(seen)
    )
    buffer = Buffer(observations, np.zeros((4, 2, 2), np.float32), tuple(phase for _, phase in seen), "by hand")
    alpha = torch.tensor([[0.7, 0.9], [1.1, 1.4]], dtype=torch.float64)
    beta = torch.tensor([1.0, 1.2], dtype=torch.float64)
    matching = Matching(alpha, beta, Gaps(0.25, 0.5), Gaps(0.125, 0.0625))
    chunks, injections = episodes()
    proposal = by_error_bound(NAMES, chunks, injections)
    assert proposal.switches
    widths = widths_of(checkpoint)
    return Facts(
        name="made",
        source="tiny",
        source_sha256="ab" * 32,
        recipe_name="channelwise+matching",
        recipe=MANY,
        budget=0.4,
        denoise_steps=(8, 4),
        buffer=buffer,
        calibrated=Calibrated(
            beside={},
            drifts=(),
            allocation=Allocation(widths, 0.75, 0.3999),
            nested={},
            matchings=(matching, matching),
            nmse=(0.0004, 0.0025),
            predicted=0.0003,
        ),
        dispatch=judge(proposal, played(fine=190, coarse=120, auto=189)),
        chunks=chunks,
        injections=injections,
        memory=Memory(400, 1500, 1000, 2000, 3 * 2**20, 0),
        curve=(Point(0.4, 0.3999, 0.0003, (0.0004, 0.0025)), Point(0.5, 0.4988, 0.0001, (0.0002, 0.0025))),
        checks=Checks(Correlation(0.9, 40, 0.8, 0.95), Correlation(0.7, 40, 0.5, 0.85), 16),
        seconds={"codes": 1.5, "matching": 2.0},
        peak_bytes=2**30,
    )


@pytest.fixture(scope="module")
def bare(full: Facts) -> Facts:
    """Facts of a recipe that measures nothing but the error, where nothing was simulated."""
    calibrated = replace(full.calibrated, matchings=(), predicted=None)
    return replace(
        full,
        recipe_name="rtn",
        recipe=FEW,
        calibrated=calibrated,
        dispatch=unchanged((0.45, 0.0), "the arm hardly moves"),
        chunks=(),
        injections=(),
        curve=(Point(0.4, 0.3999, None, (0.0004, 0.0025)),),
        checks=None,
    )


def page(facts: Facts, directory: Path) -> str:
    report.write(facts, directory)
    return (directory / report.HTML).read_text(encoding="utf-8")


def values(facts: Facts, directory: Path) -> dict[str, Any]:
    report.write(facts, directory)
    return document.read(directory / report.JSON, report.FORMAT_VERSION, ANYTHING)


def test_a_full_calibration_has_every_section(full: Facts, tmp_path: Path) -> None:
    read = Reader(page(full, tmp_path))
    assert read.headings == [*ALWAYS, "Are the sensitivities true?", "Attention matching", *SWITCHED, *LAST]
    assert "Switching between them by the motion of the arm pays." in read.text
    assert full.dispatch.verdict in read.text
    assert "0.90 0.80 to 0.95 40" in read.text
    assert "fine 0.2500 0.1250 0.5000 0.0625" in read.text
    assert "made Made of tiny by recipe channelwise+matching, for a budget of 0.4." in read.text
    assert "40.0% of their bytes in bf16; all weights together hold 75.0%" in read.text
    assert "2.0% at fine and 5.0% at coarse" in read.text
    assert "100 times, an episode" in read.text
    assert "S at 99 chunks" in read.text
    assert "coarse 120 of 200 53.1% to 66.5% -35.0% -40.7% auto 189 of 200" in read.text
    assert "vlaq rollout measures it" not in read.text
    assert "At 1 more the motion was not known yet." in read.text


def test_what_was_not_measured_has_a_line_and_no_section(bare: Facts, tmp_path: Path) -> None:
    read = Reader(page(bare, tmp_path))
    assert read.headings == [*ALWAYS, SWITCHED[1], *LAST]
    assert "Whether switching between them pays is not known." in read.text
    assert bare.dispatch.verdict in read.text
    told = read.text.partition(" Not measured ")[2]
    for line in (
        "Success of episodes at these precisions: vlaq rollout measures it.",
        "Time of a chunk: vlaq bench measures it.",
        "Predicted action error: recipe rtn predicts none.",
        "Other budgets: the recipe reaches none of those tried.",
        "Sensitivity of channels: recipe rtn estimates none.",
        "Spread of attention's logits and energy of its output: recipe rtn does not match them.",
        "What an error costs at which S: no chunk of low precision was injected.",
        "Memory of a GPU: the bundle was loaded on a CPU.",
    ):
        assert line in told
    assert "predicted" not in read.text
    assert "fine 8 above 0.45 coarse 4 the rest" in read.text


def test_thresholds_by_percentile_leave_the_verdict_open(full: Facts, tmp_path: Path) -> None:
    dispatch = by_percentile(NAMES, np.linspace(0, 1, 50))
    read = Reader(page(replace(full, dispatch=dispatch, injections=()), tmp_path))
    assert read.headings[-6:-4] == SWITCHED
    assert "Whether switching between them pays is not known." in read.text
    assert "What an error costs at which S: no chunk of low precision was injected." in read.text


def test_a_static_plan_is_one_band(full: Facts, tmp_path: Path) -> None:
    proposal = by_error_bound(NAMES, full.chunks, full.injections)
    dispatch = judge(proposal, played(full=191, fine=190, coarse=189, auto=190))
    read = Reader(page(replace(full, dispatch=dispatch), tmp_path))
    assert "full 191 of 200 91.7% to 97.6% +0.5% -0.8% fine 190 of 200" in read.text
    assert "coarse 189 of 200 90.4% to 96.9% -0.5% -2.2%" in read.text
    assert "Switching between them does not pay: coarse serves every chunk." in read.text
    assert "coarse 100%" in read.words
    assert "fine 8 nowhere coarse 4 the rest" in read.text


def test_what_is_predicted_is_drawn_with_what_is_measured(full: Facts, bare: Facts) -> None:
    drawn = figures.budget_curve(full.curve, 0.4, NAMES)
    assert drawn.count("normalised squared action error") == 1
    assert "predicted for fine" in drawn
    assert "predicted" not in figures.budget_curve(bare.curve, 0.4, NAMES)


def test_predictions_stand_beside_the_errors_measured(full: Facts, tmp_path: Path) -> None:
    read = Reader(page(full, tmp_path))
    assert "measured at fine measured at coarse predicted 0.4 0.3999 0.000400 0.00250 0.000300 0.5" in read.text
    assert "true passes took 16 observations." in read.text


def drifted(errors: tuple[float, ...]) -> tuple[Drift, ...]:
    """Give the drifts of the language model's layers: with 4 bits ten times those with 8."""
    return tuple(
        Drift(
            f"language.layers.{k}",
            width,
            {"visual": (0.0, size), "text": (size, 3 * size), "action": (4 * size,)},
            {"language": (size, size * (2 * k + 1)), "expert": (5 * size, 5 * size)},
            (6 * size,),
            error * size,
            1000,
        )
        for width, size in ((8, 0.01), (4, 0.1))
        for k, error in enumerate(errors)
    )


def test_drifts_are_shown_by_tower_and_layer(bare: Facts, tmp_path: Path) -> None:
    facts = replace(bare, calibrated=replace(bare.calibrated, drifts=drifted((1.0, 2.0, 3.0, 6.0))))
    read = Reader(page(facts, tmp_path))
    assert read.headings[: len(ALWAYS) + 1] == [*ALWAYS, "Alignment drift (EaqVLA-like reconstruction)"]
    assert "language 8 0.005 0.02 0.04 0.025 0.05 0.06 0.03 language 4 0.05 0.2 0.4 0.25 0.5 0.6 0.3" in read.text
    assert "language.layers.1 8 0.005 0.02 0.04 0.02 0.05 0.06 0.02" in read.text
    given = values(facts, tmp_path)["drift"]
    assert [(row["unit"], row["width"]) for row in given["layers"]] == [
        (f"language.layers.{k}", width) for width in (8, 4) for k in range(4)
    ]
    assert given["layers"][4]["tokens"] == {"visual": [0.0, 0.1], "text": [0.1, pytest.approx(0.3)], "action": [0.4]}
    assert given["layers"][4]["relation"] == pytest.approx(0.3)
    assert given["agreement"]["4"] == {"spearman": pytest.approx(1.0), "n": 4, "low": 1.0, "high": 1.0}


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        (
            (1, 2, 3, 4, 5, 6),
            "Layers whose relations drift more cost the action more: with 4 bits, the rank correlation over 6 layers "
            "is 1.00 (95 % interval 1.00 to 1.00).",
        ),
        (
            (6, 5, 4, 3, 2, 1),
            "Layers whose relations drift more cost the action less, so drift is a wrong guide to widths: with 8 bits, "
            "the rank correlation over 6 layers is -1.00 (95 % interval -1.00 to -1.00).",
        ),
        (
            (3, 1, 2, 6, 4, 5),
            "It is not known that layers whose relations drift more cost the action more: with 8 bits, the rank "
            "correlation over 6 layers is 0.66",
        ),
    ],
)
def test_the_report_says_in_words_whether_drift_ranks_layers_as_the_action_does(
    bare: Facts, tmp_path: Path, errors: tuple[float, ...], said: str
) -> None:
    facts = replace(bare, calibrated=replace(bare.calibrated, drifts=drifted(errors)))
    assert said in Reader(page(facts, tmp_path)).text


def test_bands_hold_the_shares_that_the_controller_gives() -> None:
    drawn = Reader(figures.distribution(np.arange(10) / 10, (0.75, 0.0), NAMES))
    assert {"fine 20%", "coarse 80%"} <= set(drawn.words)


def test_recorded_motion_is_shown_where_nothing_was_driven(bare: Facts, tmp_path: Path) -> None:
    motion = PolicyMotion(MotionScales(0.05, 0.1, 0.1), np.linspace(0, 0.9, 50))
    facts = replace(bare, buffer=replace(bare.buffer, motion=motion))
    read = Reader(page(facts, tmp_path))
    assert read.headings == [*ALWAYS, *SWITCHED, *LAST]
    assert "S at 50 moments of the calibration data, over the bands in which each precision is asked for." in read.text
    assert {"fine 50%", "coarse 50%"} <= set(read.words)  # the threshold is 0.45


def test_the_page_needs_nothing_else(full: Facts, tmp_path: Path) -> None:
    text = page(full, tmp_path)
    assert "http" not in text
    assert "<script" not in text
    attributes = Reader(text).attributes
    assert "src" not in dict(attributes)
    links = {value for name, value in attributes if name.endswith("href")}
    assert all(link is not None and link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert not re.search(r"@import|url\((?!#)", text)


def test_texts_are_escaped_and_counted(full: Facts, tmp_path: Path) -> None:
    read = Reader(page(full, tmp_path))
    assert "instruction slow fast all put a < b & c 1 1 2 pick 2 0 2" in read.text
    assert full.buffer.sha256 in read.words


def test_the_same_facts_give_the_same_bytes(full: Facts, tmp_path: Path) -> None:
    assert page(full, tmp_path) == page(full, tmp_path)


def test_the_heat_map_is_the_allocation(full: Facts) -> None:
    widths = full.calibrated.allocation.widths
    drawn = figures.heat_map(widths)
    images = [
        imread(BytesIO(base64.b64decode(data))) for data in re.findall(r"data:image/png;base64,([\w+/=\s]+)", drawn)
    ]
    towers = list(dict.fromkeys(name.split(".")[0] for name in widths))
    panels = [(tower, kinds) for tower in towers for kinds in figures.PARTS.values()]
    assert len(images) == len(panels)
    shown = 0
    for (tower, kinds), image in zip(panels, images, strict=True):
        for depth, row in enumerate(image):
            names = [f"{tower}.layers.{depth}.{kind}" for kind in kinds]
            linear = next((widths[name] for name in names if name in widths), None)
            if linear is None:
                assert not row[:, 3].any()
            else:
                np.testing.assert_allclose(row[:, :3], figures.stripe(linear), atol=1 / 255)
                shown += 1
    assert shown == len(widths)


@pytest.mark.parametrize("channels", [1, 32, 256])
def test_a_stripe_has_every_channel_where_there_is_room(channels: int) -> None:
    widths = torch.tensor(WIDTHS).repeat(channels)[:channels]
    each = np.array([to_rgb(figures.WIDTH_COLOURS[width]) for width in widths.tolist()])
    np.testing.assert_allclose(figures.stripe(widths), each.repeat(figures.COLUMNS // channels, axis=0), atol=1e-9)


@given(st.lists(st.sampled_from(WIDTHS), min_size=1, max_size=1000))
def test_a_stripe_gives_every_channel_the_same_room(widths: list[int]) -> None:
    colours: FloatArray = np.array([to_rgb(figures.WIDTH_COLOURS[width]) for width in widths])
    np.testing.assert_allclose(figures.stripe(torch.tensor(widths)).mean(axis=0), colours.mean(axis=0), atol=1e-9)


def test_the_document_has_what_was_measured(full: Facts, tmp_path: Path) -> None:
    read = values(full, tmp_path)
    assert read["source"] == {"name": "tiny", "sha256": "ab" * 32}
    assert read["recipe"]["name"] == "channelwise+matching"
    assert read["recipe"]["widths"] == "queue"
    assert read["budget"] == {"asked": 0.4, "bytes_over_bf16": 0.3999, "predicted": 0.0003}
    assert [(row["name"], row["denoise_steps"], row["action_nmse"]) for row in read["precisions"]] == [
        ("fine", 8, 0.0004),
        ("coarse", 4, 0.0025),
    ]
    widths = full.calibrated.allocation.widths
    assert read["layers"].keys() == widths.keys()
    for name, layer in read["layers"].items():
        assert layer["channels"] == {str(width): widths[name].tolist().count(width) for width in WIDTHS}
        assert layer["mean_bits"] == pytest.approx(np.mean(widths[name].numpy()))
    assert read["curve"][1] == {"budget": 0.5, "bytes_over_bf16": 0.4988, "predicted": 0.0001, "nmse": [0.0002, 0.0025]}
    assert read["checks"]["exact"] == {"spearman": 0.9, "n": 40, "low": 0.8, "high": 0.95}
    assert read["matching"]["coarse"]["after"] == {"logit": 0.125, "residual": 0.0625}
    assert read["matching"]["fine"]["clamped"] == {"alpha": 2, "beta": 0}
    assert read["matching"]["fine"]["neutral"] == {"alpha": 0, "beta": 1}
    assert read["memory"]["over_bf16"] == {"linears": 0.4, "all": 0.75}
    assert read["buffer"]["counts"] == [
        {"instruction": "put a < b & c", "phase": "slow", "count": 1},
        {"instruction": "put a < b & c", "phase": "fast", "count": 1},
        {"instruction": "pick", "phase": "slow", "count": 2},
    ]
    assert read["seconds"] == {"codes": 1.5, "matching": 2.0}


def test_what_is_not_a_number_is_null_in_the_document(full: Facts, tmp_path: Path) -> None:
    read = values(full, tmp_path)
    assert read["chunks"]["sensitivity"][:2] == [None, 0.1]
    assert read["injections"][0]["sensitivity"] is None
    assert [whole["name"] for whole in read["dispatch"]["wholes"]] == ["fine", "coarse", "auto"]
    curves = read["dispatch"]["evidence"]["curves"]
    assert curves["gain_m"][0] == 0
    assert curves["bound"][0] is None  # an error that costs nothing may be of any size
    assert curves["bound"][-1] == pytest.approx(curves["tolerated_m"] / curves["gain_m"][-1])


def test_what_was_not_measured_is_null_in_the_document(bare: Facts, tmp_path: Path) -> None:
    read = values(bare, tmp_path)
    assert {key for key, value in read.items() if value is None} == {
        *("checks", "drift", "matching", "chunks", "injections")
    }
    assert read["budget"]["predicted"] is None
    assert [point["predicted"] for point in read["curve"]] == [None]


def test_the_package_ships_the_page() -> None:
    patterns = setup_arguments()["package_data"]["vlaq_ros.calibrate"]
    assert [file.name for pattern in patterns for file in (PACKAGE / "calibrate").glob(pattern)] == ["page.html"]
