"""How far two motions lie apart, at the joints and at the tool."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from replay_events import HOME, KINEMATICS, chord_m

from vlaq_ros.replay.stance import Stance


@given(st.floats(-3, 3))
def test_an_arm_turned_about_its_base_is_off_by_a_chord_and_that_angle(angle_rad: float) -> None:
    turned = HOME + np.array([angle_rad, *np.zeros(7)])
    errors = Stance.of(KINEMATICS, turned[None]).errors(Stance.of(KINEMATICS, HOME[None]))
    assert errors.tool_m[0] == pytest.approx(abs(chord_m(angle_rad)), abs=1e-12)
    assert errors.tool_rad[0] == pytest.approx(abs(angle_rad), abs=1e-7)
    np.testing.assert_allclose(errors.joints[0], np.abs(turned - HOME))
    np.testing.assert_allclose(errors.columns[0, :2], [errors.tool_m[0], errors.tool_rad[0]])


def test_what_is_not_known_of_either_is_not_known_of_both() -> None:
    unknown = np.full(8, np.nan)
    errors = Stance.of(KINEMATICS, np.stack([HOME, unknown])).errors(Stance.of(KINEMATICS, np.stack([HOME, HOME])))
    assert np.isnan(errors.columns[:, :2]).tolist() == [[False, False], [True, True]]
