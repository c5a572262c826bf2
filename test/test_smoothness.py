"""Jerk of positions, against motions whose jerk is known."""

from __future__ import annotations

import numpy as np
import pytest

from vlaq_ros.evaluate.smoothness import rms_jerk

TIMES_S = 0.02 * np.arange(200)


def test_a_cubic_has_its_constant_jerk() -> None:
    positions = np.stack([TIMES_S**3, TIMES_S**2, 5 * TIMES_S], axis=1)
    assert rms_jerk(positions[:, :1], 0.02) == pytest.approx(6)
    assert rms_jerk(positions, 0.02) == pytest.approx(6 / np.sqrt(3))


def test_a_sine_has_its_own() -> None:
    amplitude_rad, rate_rad_s = 0.3, 2 * np.pi
    jerk = rms_jerk(amplitude_rad * np.sin(rate_rad_s * TIMES_S)[:, None], 0.02)
    assert jerk == pytest.approx(amplitude_rad * rate_rad_s**3 / np.sqrt(2), rel=0.02)


def test_too_few_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="got 3 positions, expected at least 4"):
        rms_jerk(np.zeros((3, 2)), 0.02)
