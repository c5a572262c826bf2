"""The Python that runs, and the packages that vlaq_ros needs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from importlib import metadata

from packaging.requirements import Requirement

from vlaq_ros.doctor.finding import Finding, fail, ok, unknown

_VERSIONS = ((3, 11), (3, 12))


def python(version: tuple[int, int] = sys.version_info[:2]) -> Finding:
    """Hold the interpreter against what the package supports."""
    said = f"Python {version[0]}.{version[1]}"
    if version in _VERSIONS:
        return ok("python", said)
    return fail("python", said, "Python 3.11 or 3.12", "make the environment with one of them (docs/jetson.md)")


def packages(requirements: Iterable[str] | None, version_of: Callable[[str], str | None]) -> Finding:
    """Look for every package that is required without an extra.

    Args:
        requirements: as the metadata of the installed package lists them; None where it is not installed.
        version_of: gives a package's version, None where it is not installed.
    """
    if requirements is None:
        return unknown("packages", "vlaq_ros is on the path and not installed, so that nothing says what it needs")
    missing, count = [], 0
    for requirement in map(Requirement, requirements):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            version = version_of(requirement.name)
            count += 1
            if version is None:
                missing.append(f"{requirement} is missing")
            elif version not in requirement.specifier:
                missing.append(f"{requirement.name} is {version}, not {requirement.specifier}")
    if missing:
        remedy = "pip install them into the environment that the node runs in"
        return fail("packages", "; ".join(missing), "what setup.py requires", remedy)
    return ok("packages", f"all {count} that setup.py requires")


def requirements() -> list[str] | None:
    """Give what the installed package requires; None where it is not installed."""
    try:
        return metadata.requires("vlaq_ros") or []
    except metadata.PackageNotFoundError:
        return None


def version_of(name: str) -> str | None:
    """Give the version of an installed package."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
