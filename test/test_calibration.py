"""A whole calibration, from a recording to a bundle: what is in it, and that an interrupted one goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_bags import session, write
from test_export import ROUNDED, Bars, nmse

from vlaq_ros.calibrate import calibration, pipeline
from vlaq_ros.calibrate.calibration import INJECTIONS, WHOLE, Facts, Request, make
from vlaq_ros.calibrate.injection import Chunk, Injection
from vlaq_ros.calibrate.pipeline import NAMES
from vlaq_ros.calibrate.probe import Probe
from vlaq_ros.config import RobotConfig
from vlaq_ros.errors import CalibrationDataError, ModelNotFoundError, OutputExistsError, TooFewObservationsError
from vlaq_ros.evaluate.motion import PolicyMotion
from vlaq_ros.policy.bundle import Bundle
from vlaq_ros.policy.checkpoint import Checkpoint
from vlaq_ros.policy.engine import Engine
from vlaq_ros.policy.manifest import Manifest

ROBOT = RobotConfig.load("sim_panda")
Ask = Callable[..., Request]


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("bags") / "session", session(seconds=6.0))


def request_of(checkpoint: Path, out: Path, data: Path | None, **changed: Any) -> Request:
    request = Request(
        checkpoint=checkpoint,
        out=out,
        recipe="channelwise",
        budget=0.9,
        data=data,
        robot=ROBOT,
        instruction=None,
        observations=6,
        denoise_steps=None,
        episodes=0,
        jobs=1,
        seed=0,
    )
    return replace(request, **changed)


@pytest.fixture(scope="module")
def ask(tiny_checkpoint: Path, bag: Path) -> Ask:
    return lambda out, **changed: request_of(tiny_checkpoint, out, bag, **changed)


def silent(_: str, __: int) -> Callable[[int], None]:
    """Report to nobody."""
    return lambda _: None


@pytest.fixture(scope="module")
def bars() -> Bars:
    return Bars()


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made") / "mine"


@pytest.fixture(scope="module")
def facts(ask: Ask, bars: Bars, out: Path) -> Facts:
    return make(ask(out), bars)


@pytest.fixture(scope="module")
def made(facts: Facts, out: Path) -> Path:
    assert facts.name == out.name
    return out


def test_the_bundle_names_its_observations_and_its_source(facts: Facts, made: Path, tiny_checkpoint: Path) -> None:
    manifest = Manifest.load(made)
    assert manifest.calibration == facts.buffer.sha256
    assert manifest.source.sha256 == facts.source_sha256 == Checkpoint.open(tiny_checkpoint).sha256
    assert (facts.name, facts.source, facts.buffer.origin) == ("mine", tiny_checkpoint.name, "bag session")
    assert len(facts.buffer.observations) == 6
    spec = Checkpoint.open(tiny_checkpoint).spec
    assert [plan.denoise_steps for plan in manifest.precisions] == 2 * [spec.denoising_steps]


def test_without_an_environment_thresholds_are_percentiles_of_the_recorded_motion(facts: Facts, made: Path) -> None:
    motion = facts.buffer.motion
    assert isinstance(motion, PolicyMotion)
    held = Bundle.load(made)
    fine, coarse = (plan.threshold for plan in held.manifest.precisions)
    assert fine == facts.thresholds[0] == round(float(np.percentile(motion.sensitivities, 65)), 4)
    assert coarse == facts.thresholds[1] == 0.0
    assert (held.spec.motion, held.spec.fine_threshold) == (motion.scales, fine)
    assert facts.dispatch.verdict == (
        "Whether switching pays is not known: no episodes were driven to measure it. "
        "The thresholds are percentiles of S on the calibration data."
    )


def test_without_a_description_everything_stays_the_checkpoints_and_the_verdict_says_so(
    tiny_checkpoint: Path, bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "_AROUND", ())
    other = replace(ROBOT, tool_frame="gripper_tip")  # no Panda, whose description is known
    facts = make(request_of(tiny_checkpoint, tmp_path / "out", bag, recipe="rtn", robot=other), silent)
    spec = Checkpoint.open(tiny_checkpoint).spec
    held = Bundle.load(tmp_path / "out")
    assert [plan.threshold for plan in held.manifest.precisions] == [spec.fine_threshold, 0.0] == [*facts.thresholds]
    assert (held.spec.motion, held.spec.fine_threshold) == (spec.motion, spec.fine_threshold)
    assert facts.dispatch.verdict == (
        "Whether switching pays is not known: no episodes were driven to measure it. Thresholds and what motion is "
        "divided by stay the checkpoint's: bag session has no robot description (std_msgs/msg/String on "
        "/robot_description)."
    )


def test_the_budget_is_kept_by_what_the_robot_loads(facts: Facts, made: Path) -> None:
    measured = Engine.load(made).memory.over_bf16
    assert measured["linears"] <= facts.budget == 0.9
    assert measured == facts.memory.over_bf16
    assert facts.calibrated.allocation.bytes_over_bf16 == pytest.approx(measured["linears"], abs=1e-9)


def test_the_errors_are_those_of_the_bundle(facts: Facts, made: Path, tiny_checkpoint: Path) -> None:
    probe = Probe.open(Checkpoint.open(tiny_checkpoint), facts.buffer)
    for name, error in zip(NAMES, facts.calibrated.nmse, strict=True):
        assert nmse(probe, made, name) == pytest.approx(error, rel=ROUNDED)


def test_other_budgets_are_compared(facts: Facts) -> None:
    budgets = [point.budget for point in facts.curve]
    assert budgets == sorted(budgets)
    assert 0.9 in budgets
    assert len(budgets) > 1
    for point in facts.curve:
        assert 0 < point.bytes_over_bf16 <= point.budget
    (own,) = (point for point in facts.curve if point.budget == 0.9)
    assert own.nmse == facts.calibrated.nmse
    predicted = [point.predicted for point in facts.curve]
    assert predicted == sorted(predicted, reverse=True)


def test_estimates_are_held_against_true_passes(facts: Facts) -> None:
    assert facts.checks is not None
    assert facts.checks.exact.n == facts.checks.cumulative.n == 40
    assert facts.checks.exact.low > 0.5


def test_bars_end_full_and_stages_take_time(facts: Facts, bars: Bars) -> None:
    assert bars.unfinished == []
    names = [name for name, _, _ in bars.stages]
    assert names[:2] == ["observations", "sensitivities: jacobian"]
    assert facts.seconds.keys() == set(names)
    assert all(seconds >= 0 for seconds in facts.seconds.values())
    assert facts.peak_bytes > facts.memory.all


def test_nothing_is_left_beside_the_bundle(made: Path) -> None:
    assert [path.name for path in made.parent.iterdir()] == [made.name]


class StoppedError(Exception):
    """The machine was turned off."""


def stop(*_: Any, **__: Any) -> Any:
    """Be there instead of what would come next."""
    raise StoppedError


def counted(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[None]:
    """Count the calls of a function that goes on doing its work."""
    calls: list[None] = []
    function = getattr(module, name)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        calls.append(None)
        return function(*arguments, **named)

    monkeypatch.setattr(module, name, wrapped)
    return calls


@pytest.mark.parametrize(
    "next_step",
    [(calibration, "calibrate"), (pipeline, "moments"), (calibration.export, "write")],
    ids=["after the observations", "after the sensitivities", "before the bundle"],
)
def test_an_interrupted_calibration_goes_on_and_ends_the_same(
    next_step: tuple[Any, str], made: Path, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "_AROUND", ())
    monkeypatch.setattr(calibration, "_CHECKED", 4)
    request = ask(tmp_path / "again")
    opened, estimated = counted(monkeypatch, calibration, "open_data"), counted(monkeypatch, pipeline, "jacobian")
    with monkeypatch.context() as interrupted:
        interrupted.setattr(*next_step, stop)
        with pytest.raises(StoppedError):
            make(request, silent)
    assert not request.out.exists()
    assert (tmp_path / "again.work").is_dir()
    make(request, silent)
    assert (len(opened), len(estimated)) == (1, 1)
    assert Manifest.load(request.out) == Manifest.load(made)  # with the hash of every file
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_a_bundle_that_was_half_written_is_written_anew(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "_AROUND", ())
    request = ask(tmp_path / "out", recipe="rtn")
    with monkeypatch.context() as interrupted:
        interrupted.setattr(Engine, "load", stop)
        with pytest.raises(StoppedError):
            make(request, silent)
    (half,) = tmp_path.glob("out.work/*/bundle")
    next(half.glob("*.safetensors")).write_bytes(b"cut off")
    make(request, silent)
    assert Bundle.load(request.out).manifest.calibration is not None


def test_other_data_seeds_and_topics_are_not_taken_for_these(
    tiny_checkpoint: Path, bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "calibrate", stop)
    opened = counted(monkeypatch, calibration, "open_data")
    data = write(tmp_path / "bag", session(seconds=6.0))
    request = request_of(tiny_checkpoint, tmp_path / "out", data)

    def directories(**changed: Any) -> int:
        """Count the work directories that there are then."""
        with pytest.raises(StoppedError):
            make(replace(request, **changed), silent)
        return len(list((tmp_path / "out.work").iterdir()))

    swapped = dict(zip(ROBOT.cameras, reversed(ROBOT.cameras.values()), strict=True))
    assert directories() == 1
    assert directories(recipe="awq", budget=0.5, jobs=2, episodes=3) == 1  # of no concern to the observations
    assert directories(seed=1) == 2
    assert directories(observations=7) == 3
    assert directories(instruction="pick up the green cube") == 4
    assert directories(data=bag) == 5
    assert directories(robot=replace(ROBOT, cameras=swapped)) == 6
    assert directories(robot=replace(ROBOT, description_topic="urdf")) == 7
    (file,) = data.glob("*.mcap")
    file.write_bytes(write(tmp_path / "longer", session(seconds=8.0)).joinpath("longer.mcap").read_bytes())
    assert directories() == 8  # the same path, recorded anew
    assert len(opened) == 8


def test_what_is_there_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(OutputExistsError):
        make(request_of(tmp_path / "no such checkpoint", tmp_path, tmp_path / "no such data"), silent)


def test_a_bundle_data_of_no_kind_and_too_few_observations_are_refused(
    tiny_checkpoint: Path, tiny_bundle: Path, bag: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(ModelNotFoundError):
        make(request_of(tiny_bundle, out, bag), silent)
    with pytest.raises(CalibrationDataError):
        make(request_of(tiny_checkpoint, out, tiny_checkpoint), silent)
    with pytest.raises(TooFewObservationsError):
        make(request_of(tiny_checkpoint, out, bag, observations=500), silent)
    assert not any(tmp_path.iterdir())


def test_thresholds_are_what_injected_chunks_said(
    ask: Ask, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The simulation is left out: chunks whose errors matter in proportion to S take its place."""
    asked: dict[str, Any] = {}

    def injected(*arguments: Any, each: int, seed: int, report: Callable[[int], None]) -> tuple[list[Any], list[Any]]:
        full, quantized, episodes = arguments
        asked.update(full=full.precisions, quantized=quantized.precisions, episodes=episodes, each=each, seed=seed)
        report((1 + each) * len(episodes))
        sensitivities = np.random.default_rng(1).permutation(np.linspace(0, 1, 400)).tolist()
        chunks = [
            Chunk(k // 10, "", k % 10, 0.0, "", S, {"fine": 0.1, "coarse": 2.0}) for k, S in enumerate(sensitivities)
        ]
        return chunks, [
            Injection(chunk, "coarse", 0.04 * chunk.sensitivity, chunk.sensitivity <= 0.5) for chunk in chunks
        ]

    monkeypatch.setattr(calibration, "_AROUND", ())

    def played(
        checkpoint: Path, made: Path, names: Sequence[str], episodes: Sequence[Any], *, jobs: int, report: Any
    ) -> dict[str, Any]:
        asked.update(whole=[*names], seeds={seed for seed, _ in episodes}, checkpoint=checkpoint, jobs=jobs)
        asked["under"] = [plan.threshold for plan in Manifest.load(made).precisions]
        report((1 + len(names)) * len(episodes))
        share = {"full": 2, "fine": 1, "coarse": 0, "auto": 2}  # halves that succeed
        return {name: np.arange(len(episodes)) % 2 < share[name] for name in ("full", *names)}

    monkeypatch.setattr(calibration, "perturb", injected)
    monkeypatch.setattr(calibration, "whole_episodes", played)
    bars = Bars()
    out = tmp_path / "out"
    facts = make(ask(out, recipe="rtn", episodes=8, denoise_steps=(4, 2), seed=3), bars)
    assert bars.unfinished == []
    assert asked["full"] == ("full",)
    assert asked["quantized"] == NAMES
    assert (asked["each"], asked["seed"]) == (INJECTIONS, 3)
    seeds, instructions = zip(*asked["episodes"], strict=True)
    assert len(set(seeds)) == 8
    assert set(instructions) == set(Checkpoint.open(tiny_checkpoint).spec.instructions)
    assert asked["whole"] == [*NAMES, "auto"]
    assert len(asked["seeds"] - set(seeds)) == WHOLE * 8
    assert (asked["checkpoint"], asked["jobs"]) == (tiny_checkpoint, 1)
    assert asked["under"] == [*facts.thresholds]  # what `auto` switches by
    assert facts.dispatch.static is None
    assert 0.4 < facts.thresholds[0] < 0.65
    held = Bundle.load(out)
    manifest = held.manifest
    assert held.spec.motion == Checkpoint.open(tiny_checkpoint).spec.motion  # that the chunks' S was measured with
    assert tuple(plan.threshold for plan in manifest.precisions) == facts.thresholds == facts.dispatch.thresholds
    assert [plan.denoise_steps for plan in manifest.precisions] == [4, 2]
