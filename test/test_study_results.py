"""Episodes on disk: they come back, they are extended, and they are never those of something else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlaq_ros.errors import OtherStudyError
from vlaq_ros.study.results import Results, Row, path, read

FACTS = {"cell": "width/w4a3", "variants": ["emulated w4a3"], "switch": None}


def row(number: int) -> Row:
    return Row(number, number % 3 > 0, 4.0 + number, (7, number), 300.25, 1.5)


def test_rows_come_back_and_take_less_than_120_bytes(tmp_path: Path) -> None:
    file = path(tmp_path, "width/w4a3")
    results = Results(file, FACTS)
    results.add([row(1), row(0)])
    results.add([row(1_000_000)])
    assert Results(file, FACTS).rows == {number: row(number) for number in (1, 0, 1_000_000)} == results.rows
    head, *lines = file.read_text().splitlines()
    assert json.loads(head) == FACTS
    assert max(map(len, lines)) < 120


def test_what_is_missing_comes_in_parts(tmp_path: Path) -> None:
    results = Results(tmp_path / "a.jsonl", FACTS)
    results.add(map(row, (0, 1, 5)))
    assert list(results.missing(8, 2)) == [(2, 3), (4, 6), (7,)]
    assert list(results.missing(2, 2)) == []
    assert list(Results(tmp_path / "a.jsonl", FACTS).missing(8, 25)) == [(2, 3, 4, 6, 7)]


def test_a_line_that_was_cut_off_is_played_again(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    Results(file, FACTS).add(map(row, range(3)))
    file.write_bytes(file.read_bytes()[:-4])
    again = Results(file, FACTS)
    assert list(again.missing(3, 25)) == [(2,)]
    again.add([row(2)])
    assert Results(file, FACTS).rows == {number: row(number) for number in range(3)}


def test_reading_leaves_a_growing_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    Results(file, FACTS).add(map(row, range(3)))
    file.write_bytes(file.read_bytes()[:-4])
    before = file.read_bytes()
    assert sorted(read(file, FACTS)) == [0, 1]
    assert file.read_bytes() == before
    assert read(tmp_path / "none.jsonl", FACTS) == {}


def test_an_empty_file_is_begun_again(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.touch()
    Results(file, FACTS).add([row(0)])
    assert read(file, FACTS) == {0: row(0)}


def test_episodes_of_something_else_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    Results(file, FACTS).add([row(0)])
    with pytest.raises(OtherStudyError) as error:
        Results(file, FACTS | {"variants": ["emulated w4a2"]})
    assert str(error.value) == (
        f"results {str(file)!r} were made with another variants; give the study another --out, or remove them"
    )
