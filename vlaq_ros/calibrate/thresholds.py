"""Which sensitivity S asks for which precision: DyQ-VLA's dispatch (arXiv 2603.07904).

The paper bounds the action error by a function of S that it does not publish. Ours, in its place: a chunk that errs by
e moves the end of the episode by s e, where s (m per unit of normalised action) rises with S, so that

    error bound(S) = tolerated deviation / s(S)       s: isotonic in S, from episodes with one low-precision chunk
    threshold = the S up to which the 95th percentile of a precision's error keeps within the bound

Both factors are measured: s alone may rise with S for no other reason than that slow chunks err little.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.stats import rankdata

from vlaq_ros.calibrate.injection import Chunk, Injection
from vlaq_ros.datatypes import FloatArray
from vlaq_ros.errors import TooFewInjectionsError
from vlaq_ros.evaluate.motion import FINE_SHARE
from vlaq_ros.evaluate.threshold_fit import ALWAYS, NEVER, bins, falling, kept_up_to

LEAST_EPISODES = 5
TOLERATED_SUCCESS = 0.95  # of the episodes that deviate no more than tolerated
_RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A correlation with its 95 % interval, from resampled episodes."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f}, 95 % interval {self.low:.2f} to {self.high:.2f}"


@dataclass(frozen=True, slots=True)
class Curves:
    """What the thresholds follow from, at K values of S."""

    sensitivities: FloatArray  # [K], rising
    gains_m: FloatArray  # [K] s
    errors: Mapping[str, FloatArray]  # precision -> [K] 95th percentile, smoothed
    tolerated_m: float

    @property
    def bound(self) -> FloatArray:
        """Largest tolerable action error [K]; infinite where errors did not matter."""
        with np.errstate(divide="ignore"):
            return np.divide(self.tolerated_m, self.gains_m)


@dataclass(frozen=True, slots=True)
class Evidence:
    """How S goes with what low precision does, over all injected chunks."""

    injections: int
    episodes: int
    spearman: Estimate  # of S and s
    pearson: Estimate  # the paper's
    deviation: Estimate  # rank correlation of S and the deviation itself
    curves: Curves

    @property
    def signal(self) -> bool:
        """Whether S ranks with s beyond doubt."""
        return self.spearman.low > 0


@dataclass(frozen=True, slots=True)
class Proposal:
    """A map from S to precisions that is not yet judged by whole episodes."""

    thresholds: tuple[float, ...]  # one for each precision, finest first, falling
    shares: Mapping[str, float]  # of the chunks that each precision serves under them, finest first
    evidence: Evidence

    @property
    def switches(self) -> bool:
        """Whether it is one: S says something, and more than one precision is asked for."""
        return self.evidence.signal and sum(share > 0 for share in self.shares.values()) > 1


@dataclass(frozen=True, slots=True)
class Whole:
    """Episodes in which one precision, or one rule, answered every chunk; all on the same seeds."""

    name: str
    successes: int
    n: int
    difference: float  # of its success rate from the finest precision's
    bound: float  # of the difference, one-sided at 95 % from below


@dataclass(frozen=True, slots=True)
class Dispatch:
    """The map from S to precisions, as `PrecisionPlan` takes it."""

    thresholds: tuple[float, ...]  # one for each precision, finest first, falling
    static: str | None  # the precision that serves every chunk; None: they are switched
    verdict: str
    evidence: Evidence | None = None  # None: no errors were injected
    wholes: tuple[Whole, ...] = ()  # what judged it


def by_percentile(precisions: Sequence[str], sensitivities: FloatArray) -> Dispatch:
    """Set thresholds where nothing is known of the effect of errors.

    The finest precision gets `FINE_SHARE` of the time, the others equal shares of the rest.

    Args:
        precisions: finest first.
        sensitivities: S [N] on calibration data; nan where the motion was unknown.
    """
    shares = np.linspace(1 - FINE_SHARE, 0, len(precisions))[:-1]
    thresholds = falling(np.nanquantile(sensitivities, shares))
    verdict = (
        "Whether switching pays is not known: no episodes were driven to measure it. "
        "The thresholds are percentiles of S on the calibration data."
    )
    return Dispatch(thresholds, None, verdict)


def unchanged(thresholds: tuple[float, ...], why: str) -> Dispatch:
    """Leave thresholds as they are, where S is not known either; `why` is a clause."""
    verdict = (
        "Whether switching pays is not known: no episodes were driven to measure it. "
        f"Thresholds and what motion is divided by stay the checkpoint's: {why}."
    )
    return Dispatch(thresholds, None, verdict)


def by_error_bound(precisions: Sequence[str], chunks: Sequence[Chunk], injections: Sequence[Injection]) -> Proposal:
    """Set thresholds where errors cross their bound.

    Args:
        precisions: finest first, all in the chunks' errors.
        chunks: of episodes at full precision.
        injections: in some of these chunks.

    Raises:
        TooFewInjectionsError: they are of fewer than `LEAST_EPISODES` episodes.
    """
    chunks = [chunk for chunk in chunks if np.isfinite(chunk.sensitivity)]
    injections = [row for row in injections if np.isfinite(row.chunk.sensitivity) and row.error > 0]
    episodes = np.array([row.chunk.seed for row in injections])
    if len(set(episodes.tolist())) < LEAST_EPISODES:
        raise TooFewInjectionsError(len(set(episodes.tolist())), LEAST_EPISODES)
    seen = np.array([row.chunk.sensitivity for row in injections])
    deviations_m = np.array([row.deviation_m for row in injections])
    injected = np.array([row.error for row in injections])
    successes = np.array([row.success for row in injections])
    gains_m = deviations_m / injected

    sensitivities = np.array([chunk.sensitivity for chunk in chunks])
    errors = {name: np.array([chunk.errors[name] for chunk in chunks]) for name in precisions[1:]}
    centres, parts = bins(sensitivities)
    curves = Curves(
        sensitivities=centres,
        gains_m=rising(seen, gains_m)(centres),
        errors={name: _typical(values, parts) for name, values in errors.items()},
        tolerated_m=tolerated(deviations_m, successes),
    )
    evidence = Evidence(
        injections=len(injections),
        episodes=len(set(episodes.tolist())),
        spearman=clustered(_spearman, seen, gains_m, episodes),
        pearson=clustered(_pearson, seen, gains_m, episodes),
        deviation=clustered(_spearman, seen, deviations_m, episodes),
        curves=curves,
    )
    thresholds = falling([crossing(curves, name) for name in precisions[1:]])
    edges = [np.inf, *thresholds[:-1], -np.inf]
    shares = [float(np.mean((sensitivities <= high) & (sensitivities > low))) for high, low in pairwise(edges)]
    return Proposal(thresholds, dict(zip(precisions, shares, strict=True)), evidence)


def static_thresholds(precisions: Sequence[str], name: str) -> tuple[float, ...]:
    """Thresholds under which the controller asks for one precision at every S that is known."""
    chosen = precisions.index(name)
    return falling([NEVER if k < chosen else ALWAYS for k in range(len(precisions) - 1)])


def rising(x: FloatArray, y: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """Fit the rising function nearest to `y` [N] at `x` [N] in least squares; flat beyond them, straight between."""
    points, which, counts = np.unique(x, return_inverse=True, return_counts=True)
    means = np.bincount(which, y) / counts
    fitted = isotonic_regression(means, weights=counts).x
    return lambda at: np.interp(at, points, fitted)


def tolerated(deviations_m: FloatArray, successes: NDArray[np.bool_]) -> float:
    """Largest deviation up to which 95 % of the episodes [N] succeeded; 0 if there is none."""
    return kept_up_to(deviations_m, successes, TOLERATED_SUCCESS, none=0.0)


def crossing(curves: Curves, precision: str) -> float:
    """The S up to which a precision's error keeps within the bound: `NEVER` if everywhere, `ALWAYS` if nowhere."""
    excess_m = curves.errors[precision] * curves.gains_m - curves.tolerated_m
    above = np.flatnonzero(excess_m > 0)
    if not len(above):
        return NEVER
    if above[0] == 0:
        return ALWAYS
    ends = slice(above[0] - 1, above[0] + 1)
    return float(np.interp(0, excess_m[ends], curves.sensitivities[ends]))


def clustered(
    statistic: Callable[[FloatArray, FloatArray], float], x: FloatArray, y: FloatArray, clusters: NDArray[np.int64]
) -> Estimate:
    """Estimate a statistic of `x` and `y` [N], resampling whole clusters [N]: rows of one episode are alike."""
    rows = [np.flatnonzero(clusters == cluster) for cluster in np.unique(clusters)]
    rng = np.random.default_rng(0)
    draws = (np.concatenate([rows[k] for k in rng.integers(len(rows), size=len(rows))]) for _ in range(_RESAMPLES))
    low, high = np.percentile([statistic(x[draw], y[draw]) for draw in draws], (2.5, 97.5))
    return Estimate(statistic(x, y), float(low), float(high))


def _spearman(x: FloatArray, y: FloatArray) -> float:
    return _pearson(rankdata(x), rankdata(y))


def _pearson(x: FloatArray, y: FloatArray) -> float:
    return float(np.corrcoef(x, y)[0, 1]) if np.ptp(x) and np.ptp(y) else 0.0


def _typical(errors: FloatArray, parts: Sequence[NDArray[np.int64]]) -> FloatArray:
    """95th percentiles [K] of errors in bins, made monotonic in the direction that fits better."""
    percentiles = np.array([np.percentile(errors[rows], 95) for rows in parts])
    fits = [isotonic_regression(percentiles, increasing=increasing).x for increasing in (True, False)]
    best: FloatArray = min(fits, key=lambda fit: float(np.sum((fit - percentiles) ** 2)))
    return best
