"""What is odd about the stamps of an input, for stamps of any kind."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vlaq_ros.bags.regularity import Stamps

SECOND = 1_000_000_000


def heard(stamps_s: list[float], allowed_s: float = 0.2) -> tuple[Stamps, list[bool]]:
    stamps = Stamps("camera front", allowed_s)
    return stamps, [stamps.hear(round(time_s * SECOND)) for time_s in stamps_s]


def test_every_stamp_that_is_newer_than_all_others_is_news() -> None:
    stamps, news = heard([1.0, 1.1, 1.1, 1.05, 1.2, 0.3, 0.4, 1.1, 1.3, 1.4])
    assert news == [True, True, False, False, True, False, False, False, True, True]
    assert stamps.repeated_ns == [(round(0.3 * SECOND), round(1.2 * SECOND))]
    assert stamps.span_ns() == (round(0.3 * SECOND), round(1.4 * SECOND))


def test_a_recording_that_loops_says_so_once() -> None:
    stamps, _ = heard([0.1 * k for _ in range(5) for k in range(20)])
    (line,) = stamps.lines(0, 2 * SECOND, 10.0)
    assert line == (
        "camera front: the clock ran back 4 times, first by 1.90 s, 1.9 s into the recording; "
        "what was recorded at the same stamps twice is compared with nothing"
    )
    assert stamps.rate_hz() == 10.0


def test_a_single_image_has_no_rate() -> None:
    stamps, _ = heard([1.0])
    assert np.isnan(stamps.rate_hz())
    assert list(stamps.lines(SECOND, SECOND, 20.0)) == ["camera front: a single image in the whole recording"]
    assert list(stamps.lines(SECOND, SECOND)) == []


def test_an_input_that_breaks_off_and_comes_back_is_told_by_its_longest_gap() -> None:
    stamps, _ = heard([*np.arange(0, 1, 0.1), *np.arange(1.8, 3, 0.1), *np.arange(4, 5, 0.1)])
    assert list(stamps.lines(0, 5 * SECOND)) == [
        "camera front: 2 gaps of more than 0.5 s, the longest for 1.10 s, 2.9 s into the recording"
    ]
    assert list(stamps.lines(0, 5 * SECOND, 10.0)) == [
        "camera front: 18 of 50 images are missing, the longest for 1.10 s, 2.9 s into the recording"
    ]


@given(st.lists(st.integers(0, 10**10), min_size=1, max_size=40), st.sampled_from([None, 0.5, 30.0]))
def test_any_stamps_are_told_of_in_numbers(stamps_ns: list[int], expected_hz: float | None) -> None:
    stamps = Stamps("joint states", 0.2)
    news = [stamp_ns for stamp_ns in stamps_ns if stamps.hear(stamp_ns)]
    assert (np.diff(news) > 0).all()
    lines = list(stamps.lines(min(stamps_ns), max(stamps_ns), expected_hz))
    assert not any("nan" in line or "inf" in line or "-" in line for line in lines)
    again = [ns for ns in stamps_ns if ns not in news]
    covered = [any(first <= ns <= last for first, last in stamps.repeated_ns) for ns in again]
    late = [any(0 <= newer - ns <= SECOND // 5 for newer in stamps_ns) for ns in again]
    assert all(one or other for one, other in zip(covered, late, strict=True))
