"""A step is computed once, and again only where its file is of no use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from vlaq_ros.calibrate.steps import Steps


class Counted:
    """Makes tensors, and counts how often."""

    def __init__(self, *values: float) -> None:
        self.values, self.calls = values, 0

    def __call__(self) -> dict[str, Tensor]:
        self.calls += 1
        return {"a": torch.tensor(self.values, dtype=torch.float64), "b.c": torch.arange(6).view(2, 3).T}


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    return Steps(tmp_path / "work" / "deep")


def test_a_step_is_made_once_and_read_as_it_was_made(steps: Steps) -> None:
    make = Counted(0.1, 1e300)
    made = steps.take("one", make)
    for again in (steps.take("one", make), Steps(steps.directory).take("one", make)):
        assert again.keys() == made.keys()
        for name, tensor in made.items():
            assert again[name].dtype == tensor.dtype
            assert torch.equal(again[name], tensor)
    assert make.calls == 1


def test_steps_of_other_names_and_directories_are_others(steps: Steps, tmp_path: Path) -> None:
    one, two, three = Counted(1), Counted(2), Counted(3)
    steps.take("one", one)
    assert steps.take("two", two)["a"] == 2
    assert Steps(tmp_path / "other").take("one", three)["a"] == 3
    assert steps.take("one", three)["a"] == 1
    assert (one.calls, two.calls, three.calls) == (1, 1, 1)


@pytest.mark.parametrize("kept", [0, 5, 60])
def test_a_file_that_was_cut_off_is_made_again(steps: Steps, kept: int) -> None:
    make = Counted(1, 2)
    steps.take("one", make)
    (file,) = steps.directory.iterdir()
    file.write_bytes(file.read_bytes()[:kept])
    assert steps.take("one", make)["a"].tolist() == [1, 2]
    assert make.calls == 2
    steps.take("one", make)
    assert make.calls == 2


def test_a_step_that_fails_leaves_nothing_to_be_mistaken_for_it(steps: Steps) -> None:
    def fail() -> dict[str, Tensor]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        steps.take("one", fail)
    assert steps.take("one", Counted(4))["a"] == 4
    assert [file.name for file in steps.directory.iterdir()] == ["one.safetensors"]
