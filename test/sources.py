"""The package's source files and what they import, read without running them."""

from __future__ import annotations

import ast
import runpy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import vlaq_ros

PACKAGE = Path(vlaq_ros.__file__).parent
ROOT = PACKAGE.parent  # of the checkout
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(file: Path) -> Iterator[str]:
    """Name what a file imports, inside functions too; the linter refuses relative imports."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def libraries(file: Path) -> set[str]:
    """Top-level packages that a file imports."""
    return {name.split(".")[0] for name in imports(file)}


def setup_arguments() -> Mapping[str, Any]:
    """What setup.py hands to setuptools."""
    with patch("setuptools.setup") as setup:
        runpy.run_path(str(ROOT / "setup.py"))
    arguments: Mapping[str, Any] = setup.call_args.kwargs
    return arguments
