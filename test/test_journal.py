"""The journal of a flight: what is published, and that it reads back as it was noted."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaq_ros.errors import JournalError
from vlaq_ros.journal import TICKS, Entry, Fetch, Journal, Land, Lose, Tick, parse

STAMPS = st.integers(0, 2**62)
NAMES = st.text(max_size=8)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
NEWEST = st.dictionaries(NAMES, STAMPS, max_size=3)
ENTRIES = st.one_of(
    st.builds(
        Tick, STAMPS, STAMPS, NEWEST, STAMPS, NAMES, st.booleans(), NAMES, NAMES, st.none() | NUMBERS, st.booleans()
    ),
    st.builds(
        Fetch,
        STAMPS,
        NAMES,
        st.booleans(),
        NAMES,
        st.lists(STAMPS, max_size=2).map(tuple),
        STAMPS,
        st.lists(NUMBERS, max_size=3).map(tuple),
        NAMES,
        st.booleans(),
    ),
    st.builds(Lose, NAMES),
    st.builds(Land, STAMPS),
)


def tick(now_ns: int = 0) -> Tick:
    return Tick(now_ns, 0, {"front": 1}, 3, "", True, "auto", "fine", None, False)


def fetch(*readings_ns: int) -> Fetch:
    return Fetch(0, "", True, "fine", readings_ns, 0, (), "", False)


@given(st.lists(ENTRIES))
def test_what_is_read_is_what_was_noted(entries: list[Entry]) -> None:
    pages: list[str] = []
    journal = Journal(pages.append)
    for entry in (*entries, Land(1)):
        journal.note(entry)
    read: list[Entry] = []
    for page in pages:
        first, noted = parse(page)
        assert first == len(read), "no page is missing"
        read += noted
    assert read == [*entries, Land(1)]
    assert [type(entry) for entry in read] == [*map(type, entries), Land]


def test_ticks_are_published_a_few_times_per_second_and_answers_at_once() -> None:
    pages: list[str] = []
    journal = Journal(pages.append)
    for nth in range(TICKS):
        assert pages == []
        journal.note(tick(nth))
    assert len(parse(pages[0])[1]) == TICKS
    journal.note(tick())
    journal.note(fetch())
    assert len(pages) == 1, "inputs that block may do so fifty times per second"
    journal.note(fetch(1, 2))
    assert len(pages) == 2
    journal.note(Lose("fine"))
    assert len(pages) == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"first":0,"entries":[["tick",1]]}',
        '{"first":0,"entries":[["dance",1]]}',
        '{"first":0,"entries":3}',
    ],
)
def test_what_is_no_journal_is_said(text: str) -> None:
    with pytest.raises(JournalError, match=r"^the pilot's journal says .*; expected what this version of the package "):
        parse(text)


def test_a_page_is_strict_json() -> None:
    pages: list[str] = []
    Journal(pages.append).note(fetch(1, 2))

    def refuse(name: str) -> None:
        pytest.fail(f"{name} is no JSON")

    assert json.loads(pages[0], parse_constant=refuse)["first"] == 0
