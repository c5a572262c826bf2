"""A whole calibration: observations, codes, a bundle, what it does, and its report. This is `vlaq calibrate`."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from vlaq_ros.calibrate import export
from vlaq_ros.calibrate.buffer import Buffer
from vlaq_ros.calibrate.correlation import Correlation, rank_correlation
from vlaq_ros.calibrate.data import open_data
from vlaq_ros.calibrate.episodes import whole_episodes
from vlaq_ros.calibrate.exact import cumulative, deviations, single_step, spread
from vlaq_ros.calibrate.injection import Chunk, Injection
from vlaq_ros.calibrate.perturbation import perturb
from vlaq_ros.calibrate.pipeline import NAMES, Calibrated, Measured, Stage, calibrate, measure
from vlaq_ros.calibrate.probe import Probe
from vlaq_ros.calibrate.recipes import RECIPES, Estimator, Recipe
from vlaq_ros.calibrate.report import write as write_report
from vlaq_ros.calibrate.sensitivity import at_4_bits
from vlaq_ros.calibrate.simulated import from_rollouts, is_simulated
from vlaq_ros.calibrate.steps import Steps
from vlaq_ros.calibrate.thresholds import Dispatch, Proposal, by_error_bound, by_percentile, unchanged
from vlaq_ros.calibrate.verdict import judge
from vlaq_ros.config import AUTO, RobotConfig
from vlaq_ros.errors import BudgetError, OutputExistsError, UnwritableOutputError
from vlaq_ros.evaluate.motion import PolicyMotion, UnknownMotion, on_policy
from vlaq_ros.evaluate.rollout import in_turn
from vlaq_ros.evaluate.statistics import BoolArray
from vlaq_ros.policy import pi0
from vlaq_ros.policy.checkpoint import Checkpoint
from vlaq_ros.policy.checkpoint import sha256 as sha256_of
from vlaq_ros.policy.engine import Engine
from vlaq_ros.policy.memory import Memory
from vlaq_ros.policy.spec import PolicySpec

INJECTIONS = 3  # chunks of low precision for every episode, each in a run of its own
FIRST_SEED = 600_000  # of the episodes that chunks are injected into
WHOLE = 5  # whole episodes at each precision, for every episode that chunks are injected into
WHOLE_SEED = 700_000
_AROUND = (0.85, 1.25, 1.6, 2.0)  # budgets beside the chosen one, that the report compares
_CHECKED, _CHECKED_ON = 40, 16  # channels measured by true passes, and the most observations that a pass takes


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for."""

    checkpoint: Path
    out: Path
    recipe: str  # a name of `RECIPES`
    budget: float  # bytes of the quantized linears, all precisions resident, over theirs in bf16
    data: Path | None  # recordings or demonstrations; None: the policy's own rollouts in simulation
    robot: RobotConfig  # whose topics were recorded
    instruction: str | None  # for recordings that do not say it
    observations: int
    denoise_steps: tuple[int, int] | None  # fine and coarse; None: the checkpoint's
    episodes: int  # in simulation, to learn whether switching pays; 0: left open
    jobs: int  # processes
    seed: int


@dataclass(frozen=True, slots=True)
class Point:
    """The same recipe at another budget."""

    budget: float
    bytes_over_bf16: float
    predicted: float | None  # as the recipe predicts it of the weights at the finest; None: it predicts none
    nmse: tuple[float, ...]  # at every precision


@dataclass(frozen=True, slots=True)
class Checks:
    """How far the estimate of sensitivity ranks channels like true forward passes with 4 bits do."""

    exact: Correlation
    cumulative: Correlation  # of a chunk's first step against the whole chunk, both from true passes
    observations: int  # that a pass took


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known of a calibration when it is done: what the bundle's report shows."""

    name: str  # of the bundle
    source: str  # of the checkpoint
    source_sha256: str
    recipe_name: str
    recipe: Recipe
    budget: float
    denoise_steps: tuple[int, ...]
    buffer: Buffer
    calibrated: Calibrated
    dispatch: Dispatch
    chunks: tuple[Chunk, ...]
    injections: tuple[Injection, ...]
    memory: Memory  # of the bundle as the robot loads it
    curve: tuple[Point, ...]  # by rising budget
    checks: Checks | None  # None: the recipe estimates no sensitivities
    seconds: Mapping[str, float]  # by stage
    peak_bytes: int  # that the process was resident at most

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The S from which each precision is asked for, finest first."""
        return self.dispatch.thresholds


def make(request: Request, stage: Stage) -> Facts:
    """Calibrate a checkpoint into a bundle.

    Results of finished steps lie beside `request.out` until the bundle is there; asked again, the same request goes on
    with them. Memory: the network in float32, its codes, and one pass's activations and moments.

    Args:
        request: what is asked for.
        stage: for progress.

    Raises:
        OutputExistsError: the bundle is there.
        UnwritableOutputError: nothing can be written there.
        VlaqError: checkpoint, data or budget cannot be used.
    """
    if request.out.exists():
        raise OutputExistsError(request.out)
    there = next(path for path in request.out.absolute().parents if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):  # before minutes are spent on what goes there
        raise UnwritableOutputError(request.out, there)
    checkpoint = Checkpoint.open(request.checkpoint)
    sha256 = checkpoint.sha256  # of gigabytes
    clock = _Clock(stage)
    work = request.out.with_name(f"{request.out.name}.work") / _identity(request, checkpoint, sha256)
    buffer = _buffer(request, checkpoint, work / "buffer.safetensors", clock)
    recipe = RECIPES[request.recipe]
    measured = measure(Probe.open(checkpoint, buffer), recipe, Steps(work), clock)
    calibrated = calibrate(measured, recipe, request.budget, clock)
    points = (_point(request.budget, calibrated), *_curve(measured, request, clock))
    checks = _checks(measured, clock) if recipe.estimator is not Estimator.NONE else None

    denoise_steps = request.denoise_steps or (checkpoint.spec.denoising_steps,) * len(NAMES)
    spec, dispatch = checkpoint.spec, None
    if not (request.episodes and is_simulated(spec)):
        spec, dispatch = _by_motion(spec, buffer.motion)
    made = work / "bundle"
    shutil.rmtree(made, ignore_errors=True)
    plans = export.plans(denoise_steps, dispatch.thresholds if dispatch else (spec.fine_threshold, 0.0))
    report = clock("bundle", pi0.size(checkpoint.config))
    export.write(replace(checkpoint, spec=spec), made, calibrated, plans, calibration=buffer.sha256, report=report)
    engine = Engine.load(made)
    chunks: list[Chunk] = []
    injections: list[Injection] = []
    if dispatch is None:
        chunks, injections = _perturbed(request, checkpoint, engine, clock)
        proposal = by_error_bound(NAMES, chunks, injections)
        dispatch = judge(proposal, _successes(request, made, proposal, spec.instructions, clock))
        export.set_thresholds(made, dispatch.thresholds)
    facts = Facts(
        name=request.out.name,
        source=checkpoint.directory.resolve().name,
        source_sha256=sha256,
        recipe_name=request.recipe,
        recipe=recipe,
        budget=request.budget,
        denoise_steps=tuple(denoise_steps),
        buffer=buffer,
        calibrated=calibrated,
        dispatch=dispatch,
        chunks=tuple(chunks),
        injections=tuple(injections),
        memory=engine.memory,
        curve=tuple(sorted(points, key=lambda point: point.budget)),
        checks=checks,
        seconds=clock.seconds(),
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )
    write_report(facts, made)
    made.rename(request.out)
    shutil.rmtree(work.parent)
    return facts


def _identity(request: Request, checkpoint: Checkpoint, weights_sha256: str) -> str:
    """Name what decides the buffer and everything measured on it, apart from recipe and budget."""
    robot = request.robot
    beside = sorted(checkpoint.directory.glob("*.json"))  # network, policy and tokenizer
    facts = [weights_sha256, sha256_of(beside), request.observations, request.seed]
    if request.data is not None:
        cameras = {name: asdict(camera) for name, camera in robot.cameras.items()}
        joints = {name: asdict(joint) for name, joint in robot.joints.items()}
        facts += [_state(request.data), request.instruction, cameras, joints, robot.joint_state_topic]
        facts += [robot.joint_names, robot.description_topic, robot.tool_frame]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def _state(data: Path) -> list[tuple[str, int, int]]:
    """Give name, bytes and time of every file of the data, so that what was recorded anew is read anew."""
    files = sorted(path for path in (data, *data.rglob("*")) if path.is_file())
    return [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def _buffer(request: Request, checkpoint: Checkpoint, path: Path, stage: Stage) -> Buffer:
    if path.is_file():
        return Buffer.load(path)
    count, report = request.observations, stage("observations", request.observations)
    if request.data is None:
        buffer = from_rollouts(checkpoint, count=count, seed=request.seed, jobs=request.jobs, report=report)
    else:
        buffer = open_data(
            request.data,
            request.robot,
            checkpoint,
            instruction=request.instruction,
            count=count,
            seed=request.seed,
            report=report,
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer.save(path)
    return buffer


def _curve(measured: Measured, request: Request, stage: Stage) -> tuple[Point, ...]:
    """Follow the recipe at other budgets, as far as it can be followed there."""
    points = []
    for factor in _AROUND:
        budget = factor * request.budget
        try:
            points.append(_point(budget, calibrate(measured, RECIPES[request.recipe], budget, stage)))
        except BudgetError:
            continue
    return tuple(points)


def _point(budget: float, calibrated: Calibrated) -> Point:
    return Point(budget, calibrated.allocation.bytes_over_bf16, calibrated.predicted, calibrated.nmse)


def _checks(measured: Measured, stage: Stage) -> Checks:
    """Hold the estimate against true passes, for channels from the most to the least sensitive of all."""
    probe = measured.probe
    places, scores = at_4_bits(measured.sensitivity or {})
    estimates = scores.numpy()
    ranks = np.linspace(0, len(places) - 1, min(_CHECKED, len(places))).round().astype(int)
    chosen = np.argsort(estimates)[ranks]
    rows = spread(probe, _CHECKED_ON)
    report = stage("sensitivities: true passes", len(chosen))
    exact, first, summed = [], [], []
    for index in chosen:
        name, channel = places[index]
        off = deviations(probe, name, [channel], 4, rows)
        exact.append(float(single_step(off)))
        first.append(float(single_step(off[..., :1])))
        summed.append(float(cumulative(off)))
        report(1)
    return Checks(rank_correlation(estimates[chosen], exact), rank_correlation(first, summed), len(rows))


def _by_motion(spec: PolicySpec, motion: PolicyMotion | UnknownMotion) -> tuple[PolicySpec, Dispatch]:
    """Set what follows from the arm's motion alone, as far as that is known."""
    if isinstance(motion, UnknownMotion):
        return spec, unchanged((spec.fine_threshold, 0.0), motion.why)
    return on_policy(spec, motion), by_percentile(NAMES, motion.sensitivities)


def _perturbed(
    request: Request, checkpoint: Checkpoint, engine: Engine, stage: Stage
) -> tuple[list[Chunk], list[Injection]]:
    first = FIRST_SEED + request.seed * request.episodes
    episodes = in_turn(first, checkpoint.spec.instructions, request.episodes)
    report = stage("does switching pay", (1 + INJECTIONS) * len(episodes))
    full = Engine.load(request.checkpoint, full=True)
    return perturb(full, engine, episodes, each=INJECTIONS, seed=request.seed, report=report)


def _successes(
    request: Request, made: Path, proposal: Proposal, instructions: Sequence[str], stage: Stage
) -> dict[str, BoolArray]:
    """Play whole episodes at every precision, and under the proposal where it switches."""
    count = WHOLE * request.episodes
    episodes = in_turn(WHOLE_SEED + request.seed * count, instructions, count)
    names = [*NAMES]
    if proposal.switches:
        export.set_thresholds(made, proposal.thresholds)
        names.append(AUTO)
    report = stage("whole episodes", (1 + len(names)) * count)
    return whole_episodes(request.checkpoint, made, names, episodes, jobs=request.jobs, report=report)


class _Clock:
    """Passes stages on, and takes the time of each until the next begins."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._began: list[tuple[str, float]] = []

    def __call__(self, name: str, units: int) -> Callable[[int], None]:
        """Begin a stage."""
        self._began.append((name, time.monotonic()))
        return self._stage(name, units)

    def seconds(self) -> dict[str, float]:
        """Give the seconds of every stage so far; those of one name are added."""
        ends = [began for _, began in self._began[1:]] + [time.monotonic()]
        answer: dict[str, float] = {}
        for (name, began), end in zip(self._began, ends, strict=True):
            answer[name] = answer.get(name, 0.0) + end - began
        return answer
