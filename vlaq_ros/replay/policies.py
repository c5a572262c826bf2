"""Who answers in a replay: the precision that flies, and those that are computed beside it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from vlaq_ros.config import AUTO
from vlaq_ros.errors import OtherTeacherError, SourceError, UnknownPrecisionError
from vlaq_ros.policy import bundle
from vlaq_ros.policy.description import Description, describe
from vlaq_ros.policy.engine import FULL, Engine
from vlaq_ros.policy.manifest import Manifest

ALL = "all"


@dataclass(frozen=True, slots=True)
class Policies:
    """What is computed for an observation. It holds no weights: every process loads its own."""

    model: Path  # directory of the policy
    teacher: Path | None  # directory of the checkpoint that is "full"; None where that is not asked for
    precision: str  # that flies: auto, or a name
    shadows: tuple[str, ...]  # names of those beside it, finest first

    @classmethod
    def choose(cls, asked: str, model: Path, teacher: Path | None) -> Policies:
        """Understand what is asked for, and see that it is there.

        Args:
            asked: `auto`; a name, which is then fixed; names with commas between them, which shadow auto; or `all`,
                which is every precision of the bundle, and full where its checkpoint is at hand.
            model: a bundle, or a checkpoint, whose only precision is full.
            teacher: the checkpoint that is full; None for the one that the model is or was made of.

        Raises:
            UnknownPrecisionError: the policy has no such precision.
            SourceError: full is asked for by its name, and its checkpoint is not at hand.
            OtherTeacherError: the teacher sees or does something else than the model.
            VlaqError: as `Manifest.load` and `Checkpoint.open` raise.
        """
        names = asked.split(",")
        held = () if names == [FULL] else tuple(plan.name for plan in Manifest.load(model).precisions)
        if names == [ALL]:
            names = [AUTO, *held, FULL]
        for name in names:
            if name not in (AUTO, *held, FULL):
                raise UnknownPrecisionError(name, (ALL, AUTO, *held, FULL))
        source: Path | None = None
        if FULL in names:
            try:
                source = bundle.source(teacher or model).directory.absolute()
            except SourceError:
                if asked != ALL or teacher:
                    raise
                names.remove(FULL)
            else:
                _compare(source, model)
        if len(names) == 1:
            return cls(model, source, names[0], ())
        return cls(model, source, AUTO, tuple(name for name in (FULL, *held) if name in names))

    def load(self) -> tuple[Engine, dict[str, Engine]]:
        """Load what answers: the policy that flies, and by its name who computes each shadow."""
        full = None if self.teacher is None else _engine(self.teacher, full=True)
        if full is not None and self.precision == FULL:
            return full, {}
        flying = _engine(self.model, full=False)
        return flying, {name: full if full and name == FULL else flying for name in self.shadows}


@cache
def _engine(directory: Path, *, full: bool) -> Engine:
    return Engine.load(directory, full=full)


def _compare(teacher: Path, model: Path) -> None:
    """Refuse a teacher whose chunks cannot be held against the model's."""
    theirs, ours = _interface(describe(teacher)), _interface(describe(model))
    if differing := [what for what, value in ours.items() if theirs[what] != value]:
        raise OtherTeacherError(teacher, model, differing)


def _interface(policy: Description) -> dict[str, object]:
    spec, config = policy.spec, policy.config
    return {
        "set of cameras": spec.cameras,
        "set of joints": spec.joint_names,
        "action space": spec.action_space,
        "step": spec.step_s,
        "chunk size": config.chunk_size,
        "width of its flow": config.max_action_dim,
    }
