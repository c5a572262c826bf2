"""What a node says that it was configured with."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from vlaq_ros import __version__
from vlaq_ros.config import PilotConfig
from vlaq_ros.errors import JournalError
from vlaq_ros.session import Session

CONFIG = replace(PilotConfig(), precision="fine", flow_seed=7)


@pytest.mark.parametrize(("fixture", "file"), [("tiny_bundle", "manifest.json"), ("tiny_checkpoint", "policy.json")])
def test_a_session_reads_back_and_names_its_model(fixture: str, file: str, request: pytest.FixtureRequest) -> None:
    model: Path = request.getfixturevalue(fixture)
    session = Session.of(CONFIG, model)
    assert session.sha256 == hashlib.sha256((model / file).read_bytes()).hexdigest()
    assert (session.package, session.model) == (__version__, model.name)
    assert Session.parse(session.text()) == session
    assert Session.parse(session.text()).config() == CONFIG


@pytest.mark.parametrize("text", ["", "3", '{"package": "0.1.0"}'])
def test_what_is_no_session_is_said(text: str) -> None:
    with pytest.raises(JournalError):
        Session.parse(text)


def test_parameters_of_another_version_are_said(tiny_bundle: Path) -> None:
    said = json.loads(Session.of(CONFIG, tiny_bundle).text())
    said["parameters"]["dance"] = True
    with pytest.raises(JournalError, match="'dance'"):
        Session.parse(json.dumps(said)).config()
