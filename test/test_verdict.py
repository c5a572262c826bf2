"""Plans judged by whole episodes: a static one takes the coarsest that keeps up, switching has to earn its place."""

from __future__ import annotations

import numpy as np
import pytest

from vlaq_ros.calibrate.thresholds import Curves, Estimate, Evidence, Proposal
from vlaq_ros.calibrate.verdict import TOLERATED_LOSS, judge
from vlaq_ros.evaluate.statistics import BoolArray
from vlaq_ros.evaluate.threshold_fit import ALWAYS, NEVER

N = 400
CURVES = Curves(np.array([0.0, 1.0]), np.ones(2), {"coarse": np.ones(2)}, 0.01)


def proposal(low: float, coarse_share: float = 0.5) -> Proposal:
    estimate = Estimate(low + 0.1, low, low + 0.2)
    evidence = Evidence(60, 20, estimate, estimate, estimate, CURVES)
    return Proposal((0.5, 0.0), {"fine": 1 - coarse_share, "coarse": coarse_share}, evidence)


SIGNAL, NO_SIGNAL, ALL_COARSE = proposal(0.2), proposal(-0.1), proposal(0.2, 1.0)


def solved(failures: int) -> BoolArray:
    """Successes of which the first so many are failures."""
    return np.arange(N) >= failures


@pytest.mark.parametrize(("coarse_failures", "static"), [(20, "coarse"), (24, "coarse"), (40, "fine"), (400, "fine")])
def test_without_a_signal_the_coarsest_that_keeps_up_serves_every_chunk(coarse_failures: int, static: str) -> None:
    dispatch = judge(NO_SIGNAL, {"full": solved(16), "fine": solved(20), "coarse": solved(coarse_failures)})
    assert dispatch.static == static
    assert dispatch.thresholds == {"coarse": (NEVER, 0.0), "fine": (ALWAYS, -2.0)}[static]
    assert dispatch.verdict.startswith(
        "Switching does not pay: S carries no signal of the sensitivity to errors for this policy and robot (Spearman"
    )
    coarse = next(whole for whole in dispatch.wholes if whole.name == "coarse")
    assert (coarse.bound > -TOLERATED_LOSS) == (static == "coarse")
    assert coarse.difference == pytest.approx((20 - coarse_failures) / N)


def test_few_episodes_show_nothing_and_the_plan_stays_fine() -> None:
    few = {name: solved(20)[::16] for name in ("full", "fine")} | {"coarse": solved(32)[::16]}
    dispatch = judge(NO_SIGNAL, few)
    assert dispatch.static == "fine"
    assert dispatch.verdict.endswith(
        "The plan is static: fine serves every chunk, no coarser one is shown to lose less than 5% of whole episodes "
        "against fine (full 23 of 25, +0.0% and at least -9.8%; fine 23 of 25; coarse 23 of 25, +0.0% and at least "
        "-9.8%)."
    )


def test_switching_pays_where_it_keeps_up_and_coarse_alone_does_not() -> None:
    wholes = {"full": solved(20), "fine": solved(20), "coarse": solved(100), "auto": solved(22)}
    dispatch = judge(SIGNAL, wholes)
    assert (dispatch.static, dispatch.thresholds) == (None, SIGNAL.thresholds)
    assert dispatch.verdict.startswith("Switching pays: S rises with the sensitivity to errors (Spearman 0.30")
    assert (
        "it asks for fine at 50%, coarse at 50% of the chunks, and whole episodes keep up (full 380 of 400"
        in dispatch.verdict
    )


def test_switching_does_not_pay_where_coarse_alone_keeps_up() -> None:
    dispatch = judge(SIGNAL, {"fine": solved(20), "coarse": solved(21), "auto": solved(20)})
    assert dispatch.static == "coarse"
    assert "but episodes of coarse chunks alone keep up as well" in dispatch.verdict


def test_switching_that_loses_episodes_is_given_up() -> None:
    dispatch = judge(SIGNAL, {"fine": solved(20), "coarse": solved(100), "auto": solved(60)})
    assert (dispatch.static, dispatch.thresholds) == ("fine", (ALWAYS, -2.0))
    assert "but whole episodes that switch by it do not keep up" in dispatch.verdict


def test_an_error_bound_that_asks_for_one_precision_is_judged_by_episodes_too() -> None:
    dispatch = judge(ALL_COARSE, {"fine": solved(20), "coarse": solved(100)})
    assert dispatch.static == "fine"
    assert "but by their error bound all chunks fall to one precision" in dispatch.verdict
