"""Which precision flies in a replay and which are computed beside it, from the words of the command line."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from vlaq_ros.errors import NotQuantizedError, OtherTeacherError, SourceError, UnknownPrecisionError
from vlaq_ros.policy.spec import PolicySpec
from vlaq_ros.replay.policies import Policies


@pytest.fixture
def orphan(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle whose checkpoint is not beside it."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "orphan"))


@pytest.mark.parametrize(
    ("asked", "precision", "shadows"),
    [
        ("auto", "auto", ()),
        ("coarse", "coarse", ()),
        ("full", "full", ()),
        ("fine,coarse", "auto", ("fine", "coarse")),
        ("auto,full", "auto", ("full",)),
        ("fine,fine", "auto", ("fine",)),
        ("coarse,fine", "auto", ("fine", "coarse")),
        ("all", "auto", ("full", "fine", "coarse")),
    ],
)
def test_words_become_a_precision_and_its_shadows(
    tiny_bundle: Path, asked: str, precision: str, shadows: tuple[str, ...]
) -> None:
    chosen = Policies.choose(asked, tiny_bundle, None)
    assert (chosen.precision, chosen.shadows) == (precision, shadows)
    assert (chosen.teacher is not None) == ("full" in (precision, *shadows))


def test_all_does_without_full_where_its_checkpoint_is_not_at_hand(orphan: Path, tiny_checkpoint: Path) -> None:
    assert Policies.choose("all", orphan, None).shadows == ("fine", "coarse")
    assert Policies.choose("all", orphan, tiny_checkpoint).shadows == ("full", "fine", "coarse")


@pytest.mark.parametrize("asked", ["full", "fine,full"])
def test_full_by_its_name_must_be_at_hand(orphan: Path, asked: str) -> None:
    with pytest.raises(SourceError):
        Policies.choose(asked, orphan, None)


@pytest.mark.parametrize(("asked", "name"), [("finest", "finest"), ("fine,", ""), ("fine,all", "all")])
def test_an_unknown_precision_is_answered_with_those_that_there_are(tiny_bundle: Path, asked: str, name: str) -> None:
    with pytest.raises(UnknownPrecisionError) as error:
        Policies.choose(asked, tiny_bundle, None)
    assert str(error.value) == f"unknown precision {name!r}; this policy has: all, auto, fine, coarse, full"


def test_a_checkpoint_has_full_alone(tiny_checkpoint: Path) -> None:
    assert Policies.choose("full", tiny_checkpoint, None).teacher == tiny_checkpoint
    with pytest.raises(NotQuantizedError):
        Policies.choose("all", tiny_checkpoint, None)


def test_a_teacher_must_see_and_do_what_the_model_does(
    tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    teacher = Path(shutil.copytree(tiny_checkpoint, tmp_path / "teacher"))
    spec = PolicySpec.load(teacher)
    replace(spec, step_s=0.1, cameras=("wrist", "front")).save(teacher)
    with pytest.raises(OtherTeacherError) as error:
        Policies.choose("all", tiny_bundle, teacher)
    assert str(error.value).startswith(
        f"the teacher {str(teacher)!r} has another set of cameras, another step than the model"
    )


@pytest.mark.parametrize(
    ("asked", "flown", "shadowed"),
    [("fine,full", ("fine", "coarse"), {"fine": ("fine", "coarse"), "full": ("full",)}), ("full", ("full",), {})],
)
def test_full_is_computed_by_the_teacher_and_the_rest_by_one_engine(
    tiny_bundle: Path, asked: str, flown: tuple[str, ...], shadowed: dict[str, tuple[str, ...]]
) -> None:
    flying, shadows = Policies.choose(asked, tiny_bundle, None).load()
    assert flying.precisions == flown
    assert {name: policy.precisions for name, policy in shadows.items()} == shadowed
