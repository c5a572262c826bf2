"""From injected errors to thresholds: known sensitivities give known crossings, and no signal is called so."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vlaq_ros.calibrate.injection import Chunk, Injection
from vlaq_ros.calibrate.thresholds import (
    Curves,
    by_error_bound,
    by_percentile,
    clustered,
    crossing,
    rising,
    static_thresholds,
    tolerated,
    unchanged,
)
from vlaq_ros.control.precision import PrecisionController, PrecisionRule
from vlaq_ros.datatypes import FloatArray, Motion
from vlaq_ros.errors import TooFewInjectionsError
from vlaq_ros.evaluate.threshold_fit import ALWAYS, NEVER

NAMES = ("fine", "coarse")
LADDER = ("sixteen", "eight", "four", "two")
finite = st.floats(-10, 10, allow_nan=False)


def rows(
    sensitivities: FloatArray, gains_m: FloatArray, error: float = 2.0, tolerated_m: float = 0.02
) -> tuple[list[Chunk], list[Injection]]:
    """A world in which an error deviates by the gain times it and fails beyond what is tolerated; 10 per episode."""
    chunks = [
        Chunk(k // 10, "", k % 10, 0.0, "", float(s), {"fine": 0.1, "coarse": error})
        for k, s in enumerate(sensitivities)
    ]
    deviations_m = gains_m * error
    injections = [
        Injection(chunk, "coarse", float(deviation_m), bool(deviation_m <= tolerated_m))
        for chunk, deviation_m in zip(chunks, deviations_m, strict=True)
    ]
    return chunks, injections


def spread(n: int = 400) -> FloatArray:
    return np.random.default_rng(1).permutation(np.linspace(0, 1, n))


def test_a_known_sensitivity_gives_its_crossing() -> None:
    sensitivities = spread()
    gains_m = 0.02 * sensitivities  # times an error of 2: 0.04 S, which is 0.02 at S = 0.5
    proposal = by_error_bound(NAMES, *rows(sensitivities, gains_m))
    assert proposal.switches
    assert proposal.thresholds[0] == pytest.approx(0.525, abs=0.04)  # 5 % of failures are tolerated, and bins are wide
    assert proposal.thresholds[1] == 0.0
    assert proposal.evidence.spearman.value == pytest.approx(1.0)
    assert proposal.evidence.spearman.low == pytest.approx(1.0)
    assert (proposal.evidence.injections, proposal.evidence.episodes) == (400, 40)
    fine = float(np.mean(sensitivities > proposal.thresholds[0]))
    assert proposal.shares == pytest.approx({"fine": fine, "coarse": 1 - fine})


def test_no_signal_proposes_no_switching() -> None:
    noise = np.random.default_rng(2)
    proposal = by_error_bound(NAMES, *rows(spread(), noise.uniform(0.001, 0.002, 400), tolerated_m=1.0))
    assert not proposal.evidence.signal
    assert not proposal.switches


def test_a_falling_sensitivity_is_no_signal() -> None:
    sensitivities = spread()
    proposal = by_error_bound(NAMES, *rows(sensitivities, 0.02 * (1 - sensitivities)))
    assert proposal.evidence.spearman.high < 0
    assert not proposal.switches


def test_signal_without_consequence_asks_for_one_precision() -> None:
    sensitivities = spread()
    proposal = by_error_bound(NAMES, *rows(sensitivities, 1e-4 * sensitivities, tolerated_m=1.0))
    assert proposal.evidence.signal
    assert proposal.shares == {"fine": 0, "coarse": 1}
    assert not proposal.switches


def test_too_few_episodes_and_unknown_motion() -> None:
    chunks, injections = rows(np.append(np.linspace(0, 1, 40), np.full(10, np.nan)), np.ones(50))
    with pytest.raises(TooFewInjectionsError) as mistake:
        by_error_bound(NAMES, chunks, injections)
    assert str(mistake.value) == (
        "errors were injected into 4 episodes that succeed at full precision, expected at least 5; "
        "give --episodes more, or 0 to leave open whether switching pays"
    )


@given(arrays(float, st.integers(1, 60), elements=st.floats(0, 3)), st.integers(1, 4))
def test_the_percentile_rule(sensitivities: FloatArray, n: int) -> None:
    dispatch = by_percentile(LADDER[:n], np.append(sensitivities, np.nan))
    assert dispatch.static is None
    assert dispatch.evidence is None
    assert len(dispatch.thresholds) == n
    assert all(finer > coarser for finer, coarser in pairwise(dispatch.thresholds))
    if n == 2:
        assert dispatch.thresholds[0] == pytest.approx(max(np.percentile(sensitivities, 65), 1e-4), abs=1.1e-4)


def test_thresholds_that_stay_say_why() -> None:
    dispatch = unchanged((0.4, 0.0), "the arm hardly moves")
    assert (dispatch.thresholds, dispatch.static, dispatch.evidence) == ((0.4, 0.0), None, None)
    assert dispatch.verdict == (
        "Whether switching pays is not known: no episodes were driven to measure it. "
        "Thresholds and what motion is divided by stay the checkpoint's: the arm hardly moves."
    )


@pytest.mark.parametrize("name", LADDER)
@given(sensitivities=st.lists(st.floats(0, 1e6), min_size=1, max_size=20))
def test_a_static_plan_answers_one_precision(name: str, sensitivities: list[float]) -> None:
    thresholds = static_thresholds(LADDER, name)
    assert all(finer > coarser for finer, coarser in pairwise(thresholds))  # what a manifest wants
    controller = PrecisionController([PrecisionRule(*rule) for rule in zip(LADDER, thresholds, strict=True)], 0.0)
    for k, sensitivity in enumerate(sensitivities):
        assert controller.decide(Motion(k, 0.0, 0.0, sensitivity), k).precision == name
    assert controller.decide(None, len(sensitivities)).precision == "sixteen"


@given(
    st.lists(st.tuples(st.integers(0, 8), finite), min_size=1, max_size=20),
    st.lists(finite, min_size=2, max_size=5),
)
def test_the_rising_fit_is_monotonic_and_keeps_the_mean(points: list[tuple[int, float]], at: list[float]) -> None:
    x, y = np.array(points, dtype=float).T
    fit = rising(x, y)
    assert np.all(np.diff(fit(np.sort(at))) >= -1e-9)
    assert fit(x).mean() == pytest.approx(y.mean(), abs=1e-9)


@given(arrays(float, 15, elements=st.floats(0, 5), unique=True))
def test_what_rises_already_is_kept(values: FloatArray) -> None:
    x = np.sort(values)
    np.testing.assert_allclose(rising(values, values)(x), x)


def test_what_is_tolerated() -> None:
    deviations_m = np.arange(40) * 1e-3
    assert tolerated(deviations_m, np.ones(40, dtype=bool)) == pytest.approx(0.039)
    assert tolerated(deviations_m, np.zeros(40, dtype=bool)) == 0.0
    assert tolerated(deviations_m, np.arange(40) < 19) == pytest.approx(0.019)  # 19 of 20
    assert tolerated(deviations_m[::-1], np.arange(40)[::-1] < 19) == pytest.approx(0.019)  # in any order


@pytest.mark.parametrize(("tolerated_m", "expected"), [(0.1, ALWAYS), (2.0, 0.5), (2.5, 0.75), (4.0, NEVER)])
def test_crossings(tolerated_m: float, expected: float) -> None:
    at = np.array([0.0, 0.5, 1.0])
    curves = Curves(at, np.array([1.0, 2.0, 3.0]), {"coarse": np.ones(3)}, tolerated_m)
    assert crossing(curves, "coarse") == pytest.approx(expected)
    within = at[curves.errors["coarse"] <= curves.bound]
    assert len(within) == {ALWAYS: 0, 0.5: 2, 0.75: 2, NEVER: 3}[expected]


def test_an_interval_knows_that_rows_of_one_episode_are_alike() -> None:
    rng = np.random.default_rng(4)
    x, y = np.repeat(rng.standard_normal((2, 12)), 20, axis=1)  # twelve episodes, each one value twenty times

    def width(clusters: FloatArray) -> float:
        estimate = clustered(lambda a, b: float(np.corrcoef(a, b)[0, 1]), x, y, clusters)
        assert estimate.low <= estimate.value <= estimate.high
        return estimate.high - estimate.low

    assert width(np.repeat(np.arange(12), 20)) > 2.5 * width(np.arange(240))
