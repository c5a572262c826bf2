"""The demo's processes: `sim_robot` and `pilot` on a ROS domain of their own, a client and a recorder here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vlaq_ros.errors import VlaqError
from vlaq_ros.ros.episodes import EpisodeClient
from vlaq_ros.ros.station import Station


class ForeignFilesError(VlaqError):
    """Something that no recording wrote is in the way."""

    def __init__(self, directory: Path) -> None:
        names = ", ".join(sorted(path.name for path in directory.iterdir()))
        super().__init__(f"directory {str(directory)!r} holds files that no recording wrote ({names}); move them away")


@contextmanager
def demo(out: Path, model: Path, precision: str, domain_id: int) -> Iterator[EpisodeClient]:
    """Run both nodes and record every topic until it is left, for whatever reason.

    Args:
        out: directory for `bag` and the nodes' output; what a demo before left there is replaced.
        model: model directory.
        precision: of the pilot, `auto` or a name.
        domain_id: ROS domain that nothing else uses.

    Raises:
        ForeignFilesError: the directory of the bag holds something else.
    """
    out.mkdir(parents=True, exist_ok=True)
    _remove_bag(out / "bag")
    pilot = {"model": str(model), "precision": precision, "autostart": "true"}
    with Station("demo", domain_id=domain_id) as station, station.recording(out / "bag"):
        client = EpisodeClient(station)
        for name, parameters in {"sim_robot": {}, "pilot": pilot}.items():
            station.start(f"vlaq_ros.ros.{name}_node", parameters, out / f"{name}.log")
        yield client


def _remove_bag(bag: Path) -> None:
    """Remove the files of an earlier recording, and nothing else."""
    for name in (f"{bag.name}.mcap", "metadata.yaml"):
        (bag / name).unlink(missing_ok=True)
    if bag.exists():
        if any(bag.iterdir()):
            raise ForeignFilesError(bag)
        bag.rmdir()
