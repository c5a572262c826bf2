"""One attempt at a task: there is no second one, so a mistake that breaks the rules ends it."""

from __future__ import annotations

SETTLING_NS = 300_000_000  # that an object which was let go may take to come to rest


class Attempt:
    """What has become of the object to take since the episode began.

    Attributes:
        failed: the episode cannot succeed any more; once true, it stays.
        was_held: the object has been in the gripper.
    """

    def __init__(self) -> None:
        self.failed = False
        self.was_held = False
        self._held_or_done_ns = 0

    def look(self, now_ns: int, *, held: bool, success: bool, disturbed: bool, empty: bool) -> None:
        """Judge the present state.

        Args:
            now_ns: since the episode began.
            held: the object is in the gripper.
            success: the task is fulfilled.
            disturbed: an object is where it should not have been pushed to.
            empty: the gripper has closed on nothing.
        """
        self.was_held |= held
        if held or success:
            self._held_or_done_ns = now_ns
        elif self.was_held:
            self.failed |= now_ns - self._held_or_done_ns > SETTLING_NS
        self.failed |= not success and (disturbed or empty)
