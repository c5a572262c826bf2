"""Seams: measured in closed form on motions that are known, flown, told, drawn."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from test_pi0 import CPU, IMAGE_TOKEN_ID, assembled, random_policy
from test_sampler import BATCH, CONFIG, GIVEN, GUIDE, SOFT, TOKENS, as_written, by_hand

from vlaq_ros.bench.report import markers
from vlaq_ros.calibrate.flow import live
from vlaq_ros.cli.main import main
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.datatypes import ActionChunk, ActionSpace, FloatArray, Trajectory
from vlaq_ros.evaluate import seam_report, seams
from vlaq_ros.evaluate.rollout import Outcome, Takeover
from vlaq_ros.evaluate.seams import AFTER, BEFORE, NEAR, OFFSETS, PERIOD_NS, PERIOD_S, Cell, Flown, Seams
from vlaq_ros.policy.cache import Cache
from vlaq_ros.policy.engine import FULL, Engine
from vlaq_ros.sim import panda
from vlaq_ros.study import jacobian

KINEMATICS = Kinematics(panda.urdf(), panda.JOINT_NAMES, panda.TOOL_FRAME)
HOME = np.array([*panda.HOME_RAD, 0.04])
STEP_S = 0.05


def takeover(time_ns: int, *, asked_rad_s: float = 0.0, ran_rad_s: float = 0.0) -> Takeover:
    """The chunk is 80 ms old; joint 2 is to move on at a constant speed from where it was seen."""
    seen_ns = time_ns - 10 * PERIOD_NS
    actions = np.zeros((16, 8))
    actions[:, 2] = asked_rad_s * STEP_S * np.arange(1, 17)
    actions[:, 7] = HOME[7]
    ends = np.vstack([HOME, HOME])
    ends[1, 2] += ran_rad_s * 2.0
    ran = Trajectory(seen_ns, panda.JOINT_NAMES, np.array([0, 2 * 10**9]), ends)
    return Takeover(time_ns, HOME, ActionChunk(seen_ns, STEP_S, ActionSpace.JOINT, actions), ran)


def outcome(joints: FloatArray, takeovers: Sequence[Takeover]) -> Outcome:
    none = np.zeros(0)
    return Outcome(7, "wave", True, (), none, none, joints, takeovers=tuple(takeovers))


def test_a_chunk_is_held_against_what_would_have_gone_on() -> None:
    seam = takeover(60 * PERIOD_NS, asked_rad_s=0.2, ran_rad_s=0.5)
    measured = Seams.of(outcome(np.tile(HOME, (200, 1)), [seam]), KINEMATICS)
    apart = 0.3 * (OFFSETS + 10) * PERIOD_S
    np.testing.assert_allclose(measured.disagreement_rad, np.where(NEAR, apart, np.nan)[None], atol=1e-9)
    np.testing.assert_allclose(measured.speed_jump_rad_s, [0.3], atol=1e-9)


def test_rates_are_those_of_the_arm_joint_that_moves_most() -> None:
    """q = t^3 in joint 5, which is more than in joint 2; a gripper that slams does not count."""
    times_s = PERIOD_S * np.arange(1, 201)
    joints = np.tile(HOME, (200, 1))
    joints[:, 5] += times_s**3
    joints[:, 2] -= 0.5 * times_s**3
    joints[:, 7] = np.arange(200) % 2
    seam_ns = 100 * PERIOD_NS
    measured = Seams.of(outcome(joints, [takeover(seam_ns)]), KINEMATICS)
    at_s = seam_ns * 1e-9 + OFFSETS * PERIOD_S
    np.testing.assert_allclose(measured.speed_rad_s[0], ((at_s + PERIOD_S) ** 3 - at_s**3) / PERIOD_S, rtol=1e-6)
    np.testing.assert_allclose(measured.acceleration_rad_s2[0], 6 * (at_s + PERIOD_S), rtol=1e-5)
    np.testing.assert_allclose(measured.jerk_rad_s3[0], 6, rtol=1e-3)


def test_what_an_episode_did_not_live_to_see_is_not_known() -> None:
    measured = Seams.of(outcome(np.tile(HOME, (70, 1)), [takeover(60 * PERIOD_NS)]), KINEMATICS)
    known = np.isfinite(measured.jerk_rad_s3[0])
    assert known[OFFSETS <= 7].all()
    assert not known[OFFSETS > 7].any()


def test_episodes_without_a_seam_join_those_with_some() -> None:
    still = np.tile(HOME, (70, 1))
    none, one = (Seams.of(outcome(still, [takeover(60 * PERIOD_NS)] * count), KINEMATICS) for count in (0, 1))
    assert none.disagreement_rad.shape == none.speed_rad_s.shape == (0, len(OFFSETS))
    np.testing.assert_array_equal(Seams.joined([none, one, none]).jerk_rad_s3, one.jerk_rad_s3)


def test_the_windows_are_as_long_and_nothing_reaches_over_the_seam() -> None:
    assert AFTER.sum() == BEFORE.sum()
    assert OFFSETS[BEFORE].max() + 3 < 0 <= OFFSETS[AFTER].min()  # a third difference takes three rows more


def test_a_cell_is_flown(tiny_bundle: Path) -> None:
    episodes = [(900_000, "pick up the red cube"), (900_001, "pick up the blue cube")]
    engine = Engine.load(tiny_bundle)
    flown = seams._fly(tiny_bundle, Cell("guided", "guided", "coarse", 0.05, lambda *_: engine), episodes, 1.0)
    assert set(flown.successes) == {900_000, 900_001}
    assert len(flown.seams.speed_jump_rad_s) + flown.rejections > 2
    assert np.isfinite(flown.seams.disagreement_rad[:, NEAR]).all()


def test_the_whole_jacobian_is_the_papers() -> None:
    network = assembled(random_policy(CONFIG))
    text = torch.stack([network.words(row[row != IMAGE_TOKEN_ID]) for row in GIVEN["input_ids"]])
    with torch.no_grad():
        sampler = jacobian.JacobianSampler(network, CONFIG, 4, compiled=False)
        cache = live(Cache(CONFIG, BATCH, TOKENS, torch.float32, CPU))
        actions = sampler(cache, GIVEN["pixel_values"], text, GIVEN["state"], GIVEN["noise"], guide=GUIDE, weights=SOFT)
    torch.testing.assert_close(actions, by_hand(network, 4, as_written))


def flown(failed: int, jump_rad: float) -> Flown:
    around = np.tile(np.where(NEAR, jump_rad, np.nan), (4, 1))
    ones = np.ones((4, len(OFFSETS)))
    ones[:, AFTER] = 3.0
    successes = {900_000 + k: k >= failed for k in range(10)}
    return Flown(successes, Seams(around, np.full(4, 0.25), ones, 10 * ones, 100 * ones), 0)


def cell(name: str, latency_s: float = 0.1) -> Cell:
    full = name not in seam_report.KINDS
    return Cell(name, "guided" if full else name, FULL if full else "fine", latency_s, seams.engine)


def test_a_row_counts() -> None:
    row = seams.row(cell("naive"), flown(2, 0.05))
    assert json.loads(json.dumps(row)) == row
    assert (row["n"], row["failed"], row["seams"]) == (10, [900_000, 900_001], 4)
    assert row["jump_rad"] == row["near_rad"] == [0.05, 0.05]
    assert row["after"]["jerk_rad_s3"] == [300, 300]
    assert row["before"]["jerk_rad_s3"] == [100, 100]
    (line,) = seam_report.last_line([row])
    assert set(row) - set(line) == {"times_s", "around"}


def test_the_tables_say_what_was_flown() -> None:
    rows = [seams.row(cell(name), flown(k, 0.05)) for name, k in (("guided", 0), ("whole Jacobian", 1), ("naive", 6))]
    lines = seam_report.tables(rows).splitlines()
    told = [line for line in lines if line.startswith("| 100 ms")]
    assert told == [
        "| 100 ms | naive | 4 of 10 (17% to 69%) |  | 50 / 50 | 50 / 50 | 0.25 / 0.25 | 3 / 3 (3.00) | 30 / 30 (3.00) "
        "| 300 / 300 (3.00) |",
        "| 100 ms | guided | 10 of 10 (72% to 100%) | 0.031 | 50 / 50 | 50 / 50 | 0.25 / 0.25 | 3 / 3 (3.00) "
        "| 30 / 30 (3.00) | 300 / 300 (3.00) |",
        "| 100 ms | whole Jacobian | 9 of 10 (60% to 98%) |  | 50 / 50 | 50 / 50 | 0.25 / 0.25 | 3 / 3 (3.00) "
        "| 30 / 30 (3.00) | 300 / 300 (3.00) |",
    ]


def test_the_figure_is_the_same_for_the_same_rows(tmp_path: Path) -> None:
    rows = [seams.row(cell(name, latency_s), flown(1, 0.05)) for name in seam_report.KINDS for latency_s in (0.0, 0.4)]
    drawn = []
    for name in ("one.svg", "two.svg"):
        seam_report.draw(rows, tmp_path / name)
        drawn.append((tmp_path / name).read_text())
    assert drawn[0] == drawn[1]
    assert drawn[0].lstrip().startswith("<?xml")


def test_the_command_keeps_cells_and_writes_the_page(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fly(
        model: Path,
        cells: Sequence[Cell],
        episodes: Sequence[tuple[int, str]],
        *,
        limit_s: float,
        jobs: int,
        report: Callable[[int], None],
    ) -> Iterator[tuple[Cell, Flown]]:
        assert (model, len(episodes), limit_s, jobs) == (tiny_bundle, 10, 15.0, 1)
        for one in cells:
            report(10)
            yield one, flown(2, 0.05)

    monkeypatch.setattr(seams, "fly", fly)
    begin, end = markers("seams")
    page = tmp_path / "seams.md"
    page.write_text(f"# Seams\n{begin}\n{end}\nbelow\n")
    common = ["seams", "--model", str(tiny_bundle), "--episodes", "10", "--jobs", "1", "--out", str(tmp_path / "kept")]
    assert main([*common, "--latency", "0", "0.4"]) == 0
    assert main([*common, "--latency", "0.4", "0.05", "--page", str(page)]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {(row["latency_s"], row["name"]) for row in last} == {
        (latency_s, name)
        for latency_s in (0.0, 0.05, 0.4)
        for name in (*seam_report.KINDS, seam_report.CLOSED_FORM, seam_report.WHOLE_JACOBIAN)
    }
    assert len(last) == 15
    text = page.read_text()
    assert text.startswith("# Seams\n")
    assert text.endswith(f"{end}\nbelow\n")
    assert text.count("| 50 ms |") == 5
    assert (tmp_path / "kept" / "seams.svg").is_file()
    page.write_text("no markers")
    assert main([*common, "--page", str(page)]) == 2
