"""How fast a replay goes, as a column of a progress bar whose unit is seconds."""

from __future__ import annotations

from rich.progress import ProgressColumn, Task
from rich.text import Text


class PaceColumn(ProgressColumn):
    """Seconds that are done in a second."""

    def render(self, task: Task) -> Text:
        """Show it, once it is known."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} x real time")
