"""docs/safety.md is a promise: every line of its table names a test that is there, runs and can fail."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sources import ROOT

PAGE = ROOT / "docs/safety.md"
LINE = re.compile(r"^\| (?P<fault>[^|]+) \| (?P<happens>[^|]+) \| `(?P<test>test/\w+\.py::[^`]+)` \|$", re.MULTILINE)
LEAST = 30
PROMISES = [match.groupdict() for match in LINE.finditer(PAGE.read_text(encoding="utf-8"))]
TESTS = [promise["test"] for promise in PROMISES]
NEVER_RUN = ("skip", "skipif", "xfail")

Functions = dict[str, ast.FunctionDef]


@functools.cache
def functions(file: Path) -> Functions:
    """Every function and method of a test file and of the helpers beside it that it imports, by name."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found: Functions = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (helper := file.with_name(f"{node.module}.py")).is_file():
            found |= functions(helper)
    return found | {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def called(function: ast.FunctionDef) -> Iterator[str]:
    """The last part of the name of everything that a function calls."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            yield node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


@functools.cache
def judging(file: Path) -> set[str]:
    """The functions of a file that assert or expect an error, by themselves or in a helper that they call."""
    known = functions(file)
    calls = {name: set(called(node)) for name, node in known.items()}
    found = {"raises", "assert_allclose", "assert_array_equal"}
    found |= {name for name, node in known.items() if any(isinstance(part, ast.Assert) for part in ast.walk(node))}
    while more := {name for name, names in calls.items() if names & found} - found:
        found |= more
    return found


def test_there_are_thirty_faults_or_more_each_with_a_test_of_its_own() -> None:
    assert len(PROMISES) >= LEAST
    assert sorted(TESTS) == sorted(set(TESTS))


def test_every_line_of_a_table_of_faults_is_read() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|") and "test/" in line]
    assert len(rows) == len(PROMISES), "a line that the pattern misses promises nothing"


def test_every_test_is_collected_and_none_is_skipped() -> None:
    files = sorted({test.partition("::")[0] for test in TESTS})
    markers = f"not ({' or '.join(NEVER_RUN)})"
    command = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", "-m", markers, *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    collected = {line for line in done.stdout.splitlines() if "::" in line}
    collected |= {line.partition("[")[0] for line in collected}  # a line may promise all cases of a test
    assert done.returncode == 0, done.stdout
    assert [test for test in TESTS if test not in collected] == []


@pytest.mark.parametrize("test", TESTS)
def test_every_test_can_fail_and_skips_nothing_inside(test: str) -> None:
    path, _, name = test.partition("[")[0].partition("::")
    assert name in judging(ROOT / path)
    assert not {"importorskip", *NEVER_RUN} & set(called(functions(ROOT / path)[name]))


def test_a_test_that_cannot_fail_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("def check(x):\n    assert x\n")
    test = tmp_path / "test_example.py"
    test.write_text("from helper import check\ndef test_a():\n    print(1)\ndef test_b(x):\n    x.check(2)\n")
    assert "test_a" not in judging(test)
    assert "test_b" in judging(test)
