"""The page of a replay, drawn from synthetic events: complete, self-contained, bounded, and whole in a real browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sources import PACKAGE, setup_arguments

from vlaq_ros.bags.commanded import Told
from vlaq_ros.bags.measured import Measured
from vlaq_ros.bags.reference import Reference
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.precision import PrecisionRule
from vlaq_ros.datatypes import (
    ActionChunk,
    ActionSpace,
    Command,
    Decision,
    FloatArray,
    ImageArray,
    Motion,
    Observation,
    Trajectory,
    Violations,
)
from vlaq_ros.errors import UnusableMessageError
from vlaq_ros.evaluate.report import PALETTE, SHADE
from vlaq_ros.replay import drawing as limits
from vlaq_ros.replay import fail_if
from vlaq_ros.replay.drawing import Drawing, Slots
from vlaq_ros.replay.page import SummaryRow, bounds, write, write_summary
from vlaq_ros.replay.picture import write_picture
from vlaq_ros.replay.replayed import Answer, Event, Held, Look, Seen
from vlaq_ros.replay.scores import Scores
from vlaq_ros.sim import panda

BEGIN_NS = 1_700_000_000_000_000_000
JOINTS = panda.JOINT_NAMES
KINEMATICS = Kinematics(panda.urdf(), JOINTS, panda.TOOL_FRAME)
CAMERAS = ("front", "wrist")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RULES = (PrecisionRule("fine", 0.6), PrecisionRule("coarse", 0.0))
ERRORS = {"full": 0.0004, "fine": 0.004, "coarse": 0.012}  # rad of every joint's last step


def ns(seconds: float) -> int:
    return BEGIN_NS + round(seconds * 1e9)


def motion(seconds: FloatArray) -> FloatArray:
    """A wave of every joint [*, 8]; the gripper opens and closes."""
    phase = np.arange(7)
    waves = 0.6 * np.sin(0.7 * seconds[..., None] + phase) * np.cos(0.11 * seconds[..., None] * (1 + phase))
    gripper = 0.02 + 0.02 * np.sign(np.sin(0.8 * seconds))
    return np.concatenate([waves, gripper[..., None]], axis=-1)


def image(seconds: float, hue: int) -> ImageArray:
    height, width = 120, 160
    ramp = np.linspace(60, 200, height * width, dtype=np.uint8).reshape(height, width)
    hsv = np.stack([np.full_like(ramp, hue), np.full_like(ramp, 90), ramp], axis=-1)
    picture = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    centre = int(80 + 60 * np.sin(0.7 * seconds)), int(60 + 30 * np.cos(0.5 * seconds))
    cv2.circle(picture, centre, 14, (230, 60, 40), -1)
    return picture


def s_of(t: float) -> float:
    return float(0.45 + 0.4 * np.sin(1.3 * t) * np.sin(0.31 * t) + 0.05 * np.sin(9 * t))


def answer(t: float, precision: str, random: np.random.Generator) -> Answer:
    step_s, steps = 0.05, 24
    times = t + step_s * np.arange(1, steps + 1)
    growth = np.linspace(0.1, 1, steps)[:, None]
    targets = {
        name: motion(times) + (2 + 3 * (s_of(t) > 0.6)) * size * growth * random.standard_normal(8) * ([1] * 7 + [0.02])
        for name, size in ERRORS.items()
    }
    start = motion(np.array(t))
    observation = Observation(ns(t), {}, JOINTS, start, "pick up the red cube")
    decision = Decision(precision, s_of(t), "")
    relative = targets[precision] - np.append(start[:7], 0.0)  # a gripper's column is absolute
    chunk = ActionChunk(ns(t), step_s, ActionSpace.JOINT, relative)
    trajectory = Trajectory(ns(t), JOINTS, np.arange(1, steps + 1) * 50_000_000, targets[precision])
    rejected = abs(t - 21.14) < 0.1
    return Answer(
        observation,
        ns(t + 0.1),
        decision,
        chunk,
        None if rejected else Command(trajectory, decision, ns(t), 0.05, Violations()),
        "the first action lies 0.62 rad from the arm, more than 0.5 rad" if rejected else "",
        "first action" if rejected else "",
        targets,
        {
            "full": float(random.lognormal(-2.0, 0.15)),
            "fine": float(random.lognormal(-3.0, 0.2)),
            "coarse": float(random.lognormal(-3.6, 0.2)),
        },
    )


def reference(duration_s: float, *lines: str, commands: bool = True) -> Reference:
    """An arm that is 50 ms behind what it is told."""
    times_s = np.arange(0, duration_s, 0.05)
    stamps_ns = np.array([ns(t) for t in times_s])
    command = Trajectory(BEGIN_NS, JOINTS, stamps_ns - BEGIN_NS, motion(times_s))
    always = np.array([BEGIN_NS]), np.array([ns(duration_s)])
    return Reference(
        start_ns=BEGIN_NS,
        end_ns=ns(duration_s),
        offset_ns=0,
        motion=Measured(stamps_ns, motion(times_s - 0.05)),
        told=(Told((command,), np.arange(8), *always, (command,)),) if commands else (),
        repeated_ns=(),
        commands=(command,) if commands else (),
        instructions=((ns(0.5), "pick up the red cube"), (ns(18), ""), (ns(19), "put <b>it</b> in the bin")),
        precisions=(np.empty(0, np.int64), ()),
        urdf="",
        journal=False,
        lines=lines,
        camera_rates_hz={},
        camera_sizes_px={},
        joint_rate_hz=20.0,
    )


def events(duration_s: float) -> Iterator[Event]:
    """Two cameras at 10 Hz, looks at 50 Hz, an answer every 0.3 s."""
    random = np.random.default_rng(0)
    precision = "fine"
    for tick in range(int(duration_s * 50)):
        t = tick / 50
        if tick % 5 == 0:
            for camera, hue in (("front", 100), ("wrist", 20)):
                yield Seen(camera, ns(t), lambda t=t, hue=hue: image(t, hue))
        blocked = 12 <= t < 13.5
        precision = "fine" if s_of(t) > 0.6 else ("coarse" if s_of(t) < 0.5 else precision)
        yield Look(
            ns(t),
            motion(np.array(t)),
            Decision(precision, s_of(t) if t > 0.4 else np.nan, ""),
            Motion(ns(t), 0.5, 0.1, s_of(t)),
            (f"the image of front is {t - 11.6:.2f} s old, more than 0.30 s",) if blocked else (),
            max(0.0, t - 13) if 13 <= t < 13.6 else 0.0,
            "panda_joint3 by 0.412 rad within 0.010 s" if 26 <= t < 26.4 else "",
        )
        if t in {13, 26}:
            yield Held(ns(t), Trajectory(ns(t), JOINTS, np.array([400_000_000]), motion(np.array([t]))))
        if tick % 15 == 7 and not blocked:
            yield answer(t, precision, random)


def replayed(
    duration_s: float, happened: list[Event] | Iterator[Event], shadows: tuple[str, ...] = tuple(ERRORS), **facts: Any
) -> tuple[Drawing, dict[str, Any]]:
    """What is kept for a page, and the report."""
    known = replace(reference(duration_s, "camera wrist begins 0.42 s late"), **facts)
    drawing = Drawing(known, CAMERAS, KINEMATICS)
    scores = Scores("monday/<demo>", known, KINEMATICS, shadows, RULES, step_s=0.05, dwell_s=0.25)
    for event in happened:
        drawing.take(event)
        scores.take(event)
    return drawing, scores.document()


@pytest.fixture(scope="module")
def demo() -> tuple[Drawing, dict[str, Any]]:
    return replayed(30.0, events(30.0))


@pytest.fixture(scope="module")
def page(demo: tuple[Drawing, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write(path, *demo, bounds_m={"finest": 0.015}, failed=["ee_error_p95_m is 0.02: ee_error_p95_m > 0.01"])
    return path


class Reader(HTMLParser):
    """Collects text and attributes; what is opened must be closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.data = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.data = self.data or data
        elif self.open[-1:] != ["style"]:
            self.words.append(data)


def inline(path: Path) -> Any:
    return json.loads(Reader(path).data)


def test_the_page_needs_nothing_else(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"https?:|@import|url\((?!#)|\bfetch\(|XMLHttpRequest|<link|<iframe", text)
    assert [value for name, value in Reader(page).attributes if name in {"src", "href"}] == []


def test_what_fails_and_what_is_odd_is_read_before_anything_is_drawn(page: Path) -> None:
    text = Reader(page).text
    places = [
        text.index(words)
        for words in (
            "monday/<demo>",
            "Replayed 30 s of 30 s",
            "ee_error_p95_m is 0.02: ee_error_p95_m > 0.01",
            "camera wrist begins 0.42 s late",
            "What the policy would have done",
        )
    ]
    assert places == sorted(places)


def test_every_number_that_a_condition_may_name_stands_in_the_words_of_the_schema(page: Path) -> None:
    text = Reader(page).text
    for name, said in fail_if.numbers().items():
        assert f"{said['title']} {name} " in text
        assert f" {said['description']}" in text


def test_spans_run_from_look_to_look(page: Path) -> None:
    spans = inline(page)["spans"]
    assert spans["blocked"] == [[12.0, 13.5, "the image of front is 0.40 s old, more than 0.30 s"]]
    assert [(begin, end) for begin, end, _ in spans["late"]] == [(13.02, 13.6)]
    assert spans["precision"][0][0] == 0.0
    assert spans["precision"][-1][1] == 30.0
    for before, after in zip(spans["precision"], spans["precision"][1:], strict=False):
        assert before[1] == after[0]
        assert {before[2], after[2]} == {"fine", "coarse"}


def test_what_happened_is_marked_at_its_moment(page: Path) -> None:
    assert inline(page)["marks"] == {
        "jump": [[26.0, "joint states jump: panda_joint3 by 0.412 rad within 0.010 s"]],
        "brake": [[13.0, "the arm would have been braked"], [26.0, "the arm would have been braked"]],
        "none": [[21.14, "the first action lies 0.62 rad from the arm, more than 0.5 rad"]],
    }


def test_an_unknown_sensitivity_is_null(page: Path) -> None:
    curve = inline(page)["sensitivity"]
    for t, s in zip(curve["t"], curve["s"], strict=True):
        assert s == (pytest.approx(s_of(t), abs=1e-4) if t > 0.4 else None)


def test_a_chunk_is_drawn_from_its_observation_on(page: Path) -> None:
    chunks = inline(page)["chunks"]
    assert len(chunks) > 50
    for chunk in chunks:
        assert list(chunk["lines"]) == ["flown", *ERRORS]
        assert chunk["steps"] == pytest.approx(np.arange(0, 1.25, 0.1), abs=1e-4)
        for line in chunk["lines"].values():
            assert [column[0] for column in line] == pytest.approx(motion(np.array(chunk["t"])), abs=2e-3)
        full = np.array(chunk["lines"]["full"]).T
        assert np.abs(full - motion(chunk["t"] + np.array(chunk["steps"]))).max() < 0.05


def test_the_recorded_arm_is_told_and_measured(page: Path) -> None:
    joints = inline(page)["joints"]
    times_s = np.array(joints["t"])
    assert joints["names"] == list(JOINTS)
    assert np.array(joints["told"]).T[:, :7] == pytest.approx(motion(times_s)[:, :7], abs=2e-3)
    assert np.array(joints["measured"]).T[:, :7] == pytest.approx(motion(times_s - 0.05)[:, :7], abs=2e-3)


def test_every_inference_is_counted_once(page: Path, demo: tuple[Drawing, dict[str, Any]]) -> None:
    counts = inline(page)["latency"]["counts"]
    assert {name: sum(each) for name, each in counts.items()} == dict.fromkeys(ERRORS, demo[1]["n_answers"])


def test_an_inference_beyond_the_histogram_is_in_its_last_bin() -> None:
    late, early = (replace(answer(5.0, "fine", np.random.default_rng(0)), inference_s={"fine": s}) for s in (99.0, 0.0))
    drawing, _ = replayed(10.0, [late, early], ("fine",))
    counts = drawing.data()["latency"]["counts"]["fine"]
    assert (counts[0], counts[-1], sum(counts)) == (1, 1, 2)


def test_frames_are_small_and_of_the_right_moment(page: Path) -> None:
    for camera, hue in (("front", 100), ("wrist", 20)):
        frames = inline(page)["frames"][camera]
        assert len(frames) == limits.FRAMES // 2
        t, jpeg, aspect = frames[17]
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(jpeg), np.uint8), cv2.IMREAD_COLOR)
        assert aspect == pytest.approx(4 / 3, abs=1e-3)
        assert np.abs(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).astype(int) - image(t, hue)).mean() < 4


def test_an_image_that_cannot_be_decoded_is_passed_over() -> None:
    def broken() -> ImageArray:
        raise UnusableMessageError("the image cannot be decoded", "JPEG or PNG")

    seen = [Seen("front", ns(1.0), broken), Seen("front", ns(1.01), lambda: image(1.01, 100))]
    drawing, _ = replayed(10.0, [*seen])
    assert [t for t, *_ in drawing.data()["frames"]["front"]] == [1.01]


def test_what_is_asked_of_a_bag_cannot_end_the_script(page: Path) -> None:
    assert "<" not in Reader(page).data
    assert inline(page)["instructions"][2] == [19.0, "put <b>it</b> in the bin"]


def test_the_largest_error_of_answers_too_many_to_draw_stays(
    demo: tuple[Drawing, dict[str, Any]], tmp_path: Path
) -> None:
    many = 4500
    values: list[float | None] = [0.001] * many
    values[1234], values[77] = 0.5, None
    answers = {
        "stamps_ns": [ns(30 * row / many) for row in range(many)],
        "ee_error_m": {"recorded": {"flown": values}, "finest": None},
    }
    write(tmp_path / "report.html", demo[0], {**demo[1], "answers": answers}, bounds_m={}, failed=())
    errors = inline(tmp_path / "report.html")["errors"]
    assert list(errors["of"]) == ["recorded"]
    assert len(errors["t"]) == len(errors["of"]["recorded"]["flown"]) == 2000
    assert max(errors["of"]["recorded"]["flown"]) == 0.5
    assert errors["t"][errors["of"]["recorded"]["flown"].index(0.5)] == pytest.approx(30 * 1234 / many, abs=0.02)


def test_an_hour_makes_no_longer_page_than_a_minute(tmp_path: Path) -> None:
    hour_s = 3600.0
    random = np.random.default_rng(0)
    one = answer(1.0, "fine", random)

    def hour() -> Iterator[Event]:
        for second in range(int(hour_s)):
            t = float(second)
            blocking = (f"the image of front is {0.3 + second % 7:.2f} s old",) if second % 3 == 0 else ()
            for part in range(4):
                yield Seen("front", ns(t + part / 4), lambda t=t: image(t, 100))
                yield Seen("wrist", ns(t + part / 4), lambda t=t: image(t, 20))
                decision = Decision("fine" if part % 2 else "coarse", s_of(t), "")
                jump = f"panda_joint1 by {t} rad" if part == 0 else ""
                yield Look(ns(t + part / 4), None, decision, None, blocking, float(part == 1), jump)
            yield replace(one, observation=replace(one.observation, stamp_ns=ns(t)), command=None, fault="dropped")
            yield Held(ns(t), Trajectory(ns(t), JOINTS, np.array([1]), motion(np.array([t]))))

    known = reference(hour_s)
    drawing = Drawing(known, CAMERAS, KINEMATICS)
    for event in hour():
        drawing.take(event)
    _, document = replayed(1.0, [])
    write(tmp_path / "report.html", drawing, document, bounds_m={}, failed=())
    assert (tmp_path / "report.html").stat().st_size < 3_000_000
    data = drawing.data()
    assert sum(map(len, data["frames"].values())) == limits.FRAMES
    assert len(data["chunks"]) == limits.CHUNKS
    assert len(data["sensitivity"]["t"]) == limits.LOOKS
    assert {kind: len(marks) for kind, marks in data["marks"].items()} == dict.fromkeys(data["marks"], limits.MARKS)
    assert len(data["joints"]["t"]) == limits.RECORDED
    gaps_s = np.diff([t for t, *_ in data["frames"]["front"]])
    assert gaps_s.max() < 2 * gaps_s.min()


@given(
    st.integers(1, 50),
    st.integers(0, 10**18),
    st.lists(st.integers(-(10**9), 10**9), min_size=1),
    st.integers(0, 10**9),
)
def test_slots_are_bounded_and_in_the_order_of_time(count: int, start: int, offsets: list[int], length: int) -> None:
    slots = Slots[int](start, start + length, count)
    for offset in offsets:
        if slots.at(start + offset) is None:
            slots.keep(start + offset, offset)
    kept = slots.values()
    assert 1 <= len(kept) <= count
    assert set(kept) <= set(offsets)
    assert slots.at(start + offsets[0]) == offsets[0]
    inside = [offset for offset in kept if 0 <= offset < length]
    assert inside == sorted(inside)


def test_without_shadows_what_flew_is_drawn_alone(tmp_path: Path) -> None:
    alone = [
        replace(event, targets={}, inference_s={event.decision.precision: 0.1}) if isinstance(event, Answer) else event
        for event in events(10.0)
    ]
    write(tmp_path / "report.html", *replayed(10.0, alone, (), told=(), commands=()), bounds_m={}, failed=())
    data = inline(tmp_path / "report.html")
    assert {name for chunk in data["chunks"] for name in chunk["lines"]} == {"flown"}
    assert list(data["colours"]) == ["flown", "fine", "coarse"]
    assert list(data["errors"]["of"]) == ["recorded"]
    assert data["joints"]["told"] == []
    assert "no command is recorded" in Reader(tmp_path / "report.html").text


def row(name: str, demo: tuple[Drawing, dict[str, Any]], error_m: float | None, *failed: str) -> SummaryRow:
    return SummaryRow(name, f"{name}/report.html", {**demo[1], "ee_error_p95_m": error_m}, "", failed)


def test_the_summary_begins_with_the_worst(demo: tuple[Drawing, dict[str, Any]], tmp_path: Path) -> None:
    rows = [
        row("good", demo, 0.00321),
        row("unknown", demo, None),
        row("bad", demo, 0.0456),
        row("failing", demo, 0.001, "held is 3: held > 0"),
        SummaryRow("broken", "", {}, "bag 'broken' cannot be read: it is empty"),
    ]
    write_summary(tmp_path / "index.html", rows)
    page = Reader(tmp_path / "index.html")
    assert "5 recordings. Could not be replayed: 1. Fail what was asked for: 1." in page.text
    order = ["broken", "failing", "bad", "good", "unknown"]
    places = [page.text.index(f" {name} ") for name in order]
    assert places == sorted(places)
    assert [value for name, value in page.attributes if name == "href"] == [f"{name}/report.html" for name in order[1:]]
    for words in ("3.21 mm", "45.6 mm", "not known", "held is 3: held > 0", "it is empty"):
        assert words in page.text


@given(st.sampled_from(("p50", "p95", "max")), st.floats(1e-4, 1.0), st.none() | st.floats(1e-4, 1.0))
def test_a_bound_is_drawn_where_it_belongs(spread: str, limit_m: float, fitted_m: float | None) -> None:
    turn, error, deviation = (
        fail_if.parse(f"{name} > {limit_m}")
        for name in ("ee_error_p95_rad", f"ee_error_{spread}_m", "ee_deviation_p95_m")
    )
    assert bounds([turn], fitted_m) == ({} if fitted_m is None else {"finest": fitted_m})
    assert bounds([error], fitted_m) == bounds([], fitted_m) | {"recorded": limit_m}
    assert bounds([deviation, turn], fitted_m) == {"finest": limit_m}


def test_the_picture_shows_both_precisions_and_is_the_same_for_the_same_replay(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        write_picture(tmp_path / name, *replayed(4.0, events(4.0)))
    drawn = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert drawn == (tmp_path / "b.svg").read_text(encoding="utf-8")
    for colour in PALETTE[:2]:
        assert f"fill: {colour.lower()}; opacity: {SHADE}" in drawn  # behind S
        assert f"stroke: {colour.lower()}; stroke-width: 0.8" in drawn  # a chunk


in_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: the page is not looked at")
WATCH = """<script>window.problems = []; addEventListener("error", (event) => problems.push(event.message));</script>"""
LOOK = """
const all = (chosen) => [...document.querySelectorAll(chosen)];
const colour = (chosen, of) => getComputedStyle(all(chosen)[0])[of];
facts.tracks = all("#drawn > svg").length;
facts.frames = all("#drawn image").length;
facts.charts = all(".chart").map((chart) => chart.querySelectorAll("path").length);
const drawn = all("path, line, rect, text, circle, image").map((one) => one.outerHTML.replace(/base64,[^"]*/, ""));
facts.broken = drawn.filter((text) => /NaN|Infinity|undefined/.test(text));
const words = all("p, li, td, th, button, select, span, text");
facts.smallest_px = Math.min(...words.map((one) => parseFloat(getComputedStyle(one).fontSize)));
facts.overflow_px = document.documentElement.scrollWidth - innerWidth;
facts.page = colour("body", "backgroundColor");
facts.inks = [colour("body", "color"), colour(".soft", "color"), colour("svg text", "fill"), colour(".bad", "color")];
"""


def looked_at(page: Path, script: str, *options: str) -> dict[str, Any]:
    """What a script finds in the page, in a real browser; nothing may go wrong there."""
    folder = page.parent
    probe = f"<pre id=facts></pre><script>{{ const facts = {{}};{script}\nfacts.problems = problems;"
    probe += "byId('facts').textContent = JSON.stringify(facts); }</script>"
    text = page.read_text(encoding="utf-8").replace("<head>", f"<head>{WATCH}").replace("</body>", f"{probe}</body>")
    (folder / "probed.html").write_text(text, encoding="utf-8")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        f"--user-data-dir={folder / 'user'}",
    ]
    done = subprocess.run(
        [str(CHROMIUM), *flags, *options, "--dump-dom", (folder / "probed.html").as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    assert "CONSOLE" not in done.stderr
    found = re.search(r'<pre id="facts">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None
    facts: dict[str, Any] = json.loads(unescape(found[1]))
    assert facts.pop("problems") == []
    return facts


def contrast(one: str, other: str) -> float:
    """Ratio of the luminances of two CSS colours (WCAG 2.2, 1.4.3)."""
    channels = np.array([[int(value) for value in re.findall(r"\d+", colour)[:3]] for colour in (one, other)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    low, high = sorted((linear @ [0.2126, 0.7152, 0.0722]).tolist())
    return float((high + 0.05) / (low + 0.05))


@in_browser
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (700, "dark")])
def test_the_page_is_whole_and_legible_in_a_browser(page: Path, width: int, scheme: str) -> None:
    preferred = f"--blink-settings=preferredColorScheme={['dark', 'light'].index(scheme)}"
    facts = looked_at(page, LOOK, f"--window-size={width},1400", preferred)
    assert facts["tracks"] == 10 + len(JOINTS)  # instructions, cameras, S, precision, marks, two of errors, two axes
    assert facts["frames"] >= width // 80
    assert min(facts["charts"]) >= 1
    assert len(facts["charts"]) == 4
    assert facts["broken"] == []
    assert facts["smallest_px"] >= 12
    assert facts["overflow_px"] <= 0
    assert (contrast(facts["page"], "rgb(0, 0, 0)") > contrast(facts["page"], "rgb(255, 255, 255)")) is (
        scheme == "light"
    )
    assert min(contrast(facts["page"], ink) for ink in facts["inks"]) >= 4.5


@in_browser
def test_a_hand_on_the_page_asks_and_is_answered(page: Path) -> None:
    script = """
const area = byId("tracks"), place = area.getBoundingClientRect(), wide = place.width - LEFT - RIGHT;
const at = (t) => place.left + LEFT + (t - view.from) / (view.to - view.from) * wide;
const hand = { clientY: place.top + 9, pointerType: "mouse", pointerId: 1 };
const send = (kind, x) => area.dispatchEvent(new PointerEvent(kind, { ...hand, clientX: x }));
area.setPointerCapture = () => {};
send("pointermove", at(12.5));
facts.blocked = byId("card").textContent;
facts.pictures = byId("card").querySelectorAll("img").length;
send("pointermove", at(21.14));
facts.rejected = byId("card").textContent;
send("pointerdown", at(10)); send("pointermove", at(15)); send("pointerup", at(20));
facts.dragged = [view.from, view.to];
byId("whole").click();
facts.whole = [view.from, view.to];
document.querySelector("[data-moment]").click();
facts.moment = [Number(document.querySelector("[data-moment]").dataset.moment), view.from, view.to];
const count = () => document.querySelectorAll("#drawn path").length, before = count();
document.querySelector("[data-precision=coarse]").click();
facts.hidden = before - count();
const joint = document.querySelector("[name=joint]");
joint.value = "panda_joint4"; joint.dispatchEvent(new Event("change"));
facts.tracks = document.querySelectorAll("#drawn > svg").length;
const against = document.querySelector("[name=against]");
const chart = byId("horizon").innerHTML;
against.value = "recorded"; against.dispatchEvent(new Event("change"));
facts.against = chart !== byId("horizon").innerHTML;
"""
    facts = looked_at(page, script, "--window-size=1200,1400")
    for words in ("time12.5", "the image of front is 0.40 s old, more than 0.30 s", "coarse from full", " mm"):
        assert words in facts["blocked"]
    assert facts["pictures"] == 2
    assert "the first action lies 0.62 rad from the arm" in facts["rejected"]
    assert facts["dragged"] == pytest.approx([10, 20], abs=0.1)
    assert facts["whole"] == [0, 30]
    moment, begin, end = facts["moment"]
    assert begin < moment < end <= begin + 5
    assert facts["hidden"] == 2 + len(JOINTS)  # its errors of two kinds, and its fan of every joint
    assert facts["tracks"] == 10 + 1
    assert facts["against"] is True


@in_browser
def test_a_replay_in_which_nothing_happened_has_a_page(tmp_path: Path) -> None:
    write(tmp_path / "report.html", *replayed(10.0, []), bounds_m={}, failed=())
    facts = looked_at(tmp_path / "report.html", LOOK, "--window-size=1200,1400")
    assert facts["broken"] == []
    assert facts["frames"] == 0


@in_browser
def test_a_replay_that_errs_nowhere_has_a_page(demo: tuple[Drawing, dict[str, Any]], tmp_path: Path) -> None:
    answers = {"stamps_ns": [ns(1), ns(2)], "ee_error_m": {"recorded": {"flown": [0.0, 0.0]}, "finest": None}}
    horizon = {"step_s": 0.05, "recorded": {"flown": {"p50": [0.0] * 9, "p95": [0.0] * 9}}, "finest": None}
    write(
        tmp_path / "report.html", demo[0], {**demo[1], "answers": answers, "horizon": horizon}, bounds_m={}, failed=()
    )
    facts = looked_at(tmp_path / "report.html", LOOK, "--window-size=1200,1400")
    assert facts["broken"] == []
    assert min(facts["charts"]) >= 1


def test_the_package_ships_the_page() -> None:
    patterns = setup_arguments()["package_data"]["vlaq_ros.replay"]
    shipped = {file.name for pattern in patterns for file in (PACKAGE / "replay").glob(pattern)}
    assert {"page.html", "page.js"} <= shipped
