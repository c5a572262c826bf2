"""Thresholds for a bound on action error: known errors give known crossings, and the check is what it says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vlaq_ros.config import PilotConfig, build
from vlaq_ros.control.precision import PrecisionController, PrecisionRule, rules
from vlaq_ros.datatypes import Motion
from vlaq_ros.errors import TooFewAnswersError
from vlaq_ros.evaluate.threshold_fit import ALWAYS, Samples, fit_thresholds, thresholds_file

S = np.linspace(0, 1, 400)


def samples(errors_m: dict[str, Sequence[float] | float], sensitivities: Sequence[float] = S) -> Samples:
    n = len(sensitivities)
    return Samples(np.array(sensitivities), {name: np.broadcast_to(it, n).copy() for name, it in errors_m.items()})


LINE = samples({"fine": 0.0, "coarse": 0.02 * S})  # coarse errs by 0.02 S


def test_a_precision_serves_up_to_where_a_twentieth_of_its_chunks_exceeds_the_bound() -> None:
    """It keeps the bound up to S = 0.5, which are 95 % of those up to S = 0.5 / 0.95."""
    fit = fit_thresholds([LINE], [LINE], 0.01)
    assert fit["thresholds"]["fine"] == pytest.approx(0.5 / 0.95, abs=0.003)
    for outcome in (fit["fitting"], fit["held_out"]):
        assert outcome["answers"] == 400
        assert outcome["cheap_share"] == pytest.approx(0.5 / 0.95, abs=0.005)
        assert outcome["precision_share"] == {
            "fine": pytest.approx(1 - outcome["cheap_share"]),
            "coarse": outcome["cheap_share"],
        }
        assert outcome["ee_deviation_p95_m_by_precision"]["fine"] == 0.0
        assert outcome["ee_deviation_p95_m_by_precision"]["coarse"] == pytest.approx(0.01, rel=0.01)
        assert outcome["ee_deviation_p95_m"] == pytest.approx(0.02 * (0.5 / 0.95 - 0.05), rel=0.02)
    assert (fit["bound_m"], fit["holds"]) == (0.01, True)


def test_recordings_that_err_more_show_that_the_bound_does_not_hold() -> None:
    worse = samples({"fine": 0.0, "coarse": 0.05 * S})
    assert fit_thresholds([LINE], [worse], 0.01)["holds"] is False


@pytest.mark.parametrize("held_out", [[], [samples({"fine": 0.0, "coarse": 0.0}, [])]])
def test_what_is_not_checked_is_not_said_to_hold(held_out: list[Samples]) -> None:
    fit = fit_thresholds([LINE], held_out, 0.01)
    assert (fit["held_out"], fit["holds"]) == (None, None)


@pytest.mark.parametrize(("bound_m", "threshold", "share"), [(0.1, 1.0, 1.0), (1e-5, ALWAYS, 0.0)])
def test_a_bound_that_all_or_none_keep(bound_m: float, threshold: float, share: float) -> None:
    fit = fit_thresholds([samples({"fine": 0.0, "coarse": 0.02 + 0.01 * S})], [], bound_m)
    assert fit["thresholds"]["fine"] == threshold
    assert fit["fitting"]["cheap_share"] == share


def test_a_coarser_precision_than_the_finest_of_the_bundle_is_held_against_full() -> None:
    """The finest of the bundle is off from full by more than the bound itself: no threshold helps that."""
    off = samples({"fine": 0.02, "coarse": 0.03})
    fit = fit_thresholds([off], [off], 0.01)
    assert fit["thresholds"]["fine"] == ALWAYS
    assert fit["fitting"]["ee_deviation_p95_m"] == pytest.approx(0.02)
    assert fit["holds"] is False


def test_three_precisions_each_to_its_own_crossing() -> None:
    fit = fit_thresholds([samples({"w8": 0.0, "w4": 0.02 * S, "w2": 0.05 * S})], [], 0.01)
    assert list(fit["thresholds"]) == ["w8", "w4", "w2"]
    coarsest = 0.2 / 0.95
    assert fit["thresholds"]["w4"] == pytest.approx(coarsest, abs=0.003)
    assert fit["thresholds"]["w8"] == pytest.approx(coarsest + (0.5 - coarsest) / 0.95, abs=0.003)


def test_recordings_are_put_together() -> None:
    halves = [
        Samples(LINE.sensitivities[part], {name: it[part] for name, it in LINE.errors_m.items()})
        for part in (slice(0, None, 2), slice(1, None, 2))
    ]
    assert fit_thresholds(halves, [], 0.01)["thresholds"] == fit_thresholds([LINE], [], 0.01)["thresholds"]


def test_answers_at_an_unknown_motion_are_served_by_the_finest_and_fit_nothing() -> None:
    unknown = samples({"fine": 0.0, "coarse": 1.0}, [np.inf] * 400)
    fit = fit_thresholds([LINE, unknown], [], 0.01)
    assert fit["thresholds"] == fit_thresholds([LINE], [], 0.01)["thresholds"]
    assert fit["fitting"]["cheap_share"] == pytest.approx(0.5 / 0.95 / 2, abs=0.005)


def test_answers_that_no_shadow_was_computed_for_fit_nothing() -> None:
    lost = samples({"fine": 0.0, "coarse": np.nan})
    assert fit_thresholds([LINE, lost], [], 0.01)["thresholds"] == fit_thresholds([LINE], [], 0.01)["thresholds"]


@pytest.mark.parametrize(
    ("few", "got", "names"),
    [
        (samples({"fine": 0.0, "coarse": 0.0}, S[:19]), 19, "fine, coarse"),
        (samples({"fine": 0.0}), 400, "fine"),
        (samples({}), 400, "no precision"),
    ],
)
def test_too_little_to_fit_to_is_refused(few: Samples, got: int, names: str) -> None:
    with pytest.raises(TooFewAnswersError) as caught:
        fit_thresholds([few], [], 0.01)
    assert str(caught.value) == (
        f"thresholds would be fitted to {got} answers of {names}, expected at least 20 answers of two precisions or "
        "more at a known motion; give more recordings, and --precision all"
    )


@given(
    st.lists(st.floats(0, 3), min_size=20, max_size=60),
    st.floats(1e-4, 0.1),
    st.integers(0, 2**16),
)
def test_what_the_fit_says_is_what_the_controller_does(values: list[float], bound_m: float, seed: int) -> None:
    """Without a dwell the controller asks for the precision that the fit counts on, at every S."""
    random = np.random.default_rng(seed)
    drawn = samples(
        {"w8": 0.0, "w4": random.uniform(0, 0.1, len(values)), "w2": random.uniform(0, 0.2, len(values))}, values
    )
    fit = fit_thresholds([drawn], [drawn], bound_m)
    thresholds = fit["thresholds"]
    assert list(thresholds.values()) == sorted(set(thresholds.values()), reverse=True)
    controller = PrecisionController([PrecisionRule(*it) for it in thresholds.items()], 0.0)
    asked = [controller.decide(Motion(k, 0.0, 0.0, value), k).precision for k, value in enumerate(values)]
    assert [list(thresholds)[k] for k in drawn.served(list(thresholds.values()))] == asked


@given(st.floats(1e-4, 0.1), st.integers(0, 2**16))
def test_two_precisions_keep_the_bound_on_what_they_were_fitted_to_and_no_higher_threshold_does(
    bound_m: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    seen, errors_m = random.uniform(0, 2, 60), random.uniform(0, 0.12, 60)
    drawn = samples({"fine": 0.0, "coarse": errors_m}, seen)
    fit = fit_thresholds([drawn], [drawn], bound_m)
    assert fit["holds"]
    higher = np.round(
        np.ceil(seen[seen > fit["thresholds"]["fine"] + 2e-4] * 1e4) * 1e-4, 4
    )  # thresholds have 4 digits
    assert all(np.mean(errors_m[seen <= threshold] <= bound_m) < 0.95 for threshold in higher)


def test_the_file_of_thresholds_is_what_the_pilot_reads(tmp_path: Path) -> None:
    fit = fit_thresholds([LINE], [LINE], 0.01)
    file = tmp_path / "thresholds.yaml"
    file.write_text(thresholds_file(fit))
    given = yaml.safe_load(file.read_text())["/**"]["ros__parameters"]
    config = build(PilotConfig, given, str(file))
    own = [PrecisionRule("fine", 0.9), PrecisionRule("coarse", 0.0)]
    assert {rule.name: rule.threshold for rule in rules(own, config.thresholds)} == fit["thresholds"]
    of_each = f"400 answers, {fit['fitting']['cheap_share']:.0%} coarser than the finest, 95th percentile 0.0095 m"
    assert [line for line in file.read_text().splitlines() if line.startswith("#")] == [
        "# Fitted by vlaq replay, for at most 0.01 m at the tool: they keep the bound.",
        f"# fitting: {of_each}",
        f"# held_out: {of_each}",
    ]


@pytest.mark.parametrize(
    ("held_out", "said"),
    [
        ([samples({"fine": 0.0, "coarse": 0.05 * S})], "they do NOT keep the bound there, so do not fly them"),
        ([], "nothing was held out, so nothing shows that they keep the bound elsewhere"),
    ],
)
def test_the_file_says_where_the_bound_is_not_kept(held_out: list[Samples], said: str) -> None:
    first = thresholds_file(fit_thresholds([LINE], held_out, 0.01)).splitlines()[0]
    assert first == f"# Fitted by vlaq replay, for at most 0.01 m at the tool: {said}."
