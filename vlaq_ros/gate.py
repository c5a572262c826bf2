"""Whether commands may go out: the operator's switch, the stop that latches, and the emergency stop.

Closed, it is the owner's duty to brake the arm. No ROS and no time here.
"""

from __future__ import annotations


class Gate:
    """A small state machine; one thread calls every method.

    Args:
        enabled: whether the switch is on at start.
        estop: name of the emergency stop, which must be heard before the gate opens; empty where there is none.

    Attributes:
        enabled: the operator's switch.
        stopped: why commands are stopped until `release`; empty where they are not.
    """

    def __init__(self, *, enabled: bool, estop: str) -> None:
        self.enabled = enabled
        self.stopped = ""
        self._estop = estop
        self._pressed: bool | None = None  # None: not heard

    @property
    def commands(self) -> bool:
        """Whether commands may go out."""
        return not self.why

    @property
    def why(self) -> str:
        """What keeps commands from going out; empty where they may."""
        if self.stopped:
            return f"stopped: {self.stopped}; call ~/release"
        if unsafe := self._unsafe():
            return unsafe
        return "" if self.enabled else "not enabled: call ~/enable"

    def stop(self, why: str) -> None:
        """Stop until released; the first reason stays."""
        self.stopped = self.stopped or why

    def release(self) -> str:
        """End a stop.

        Returns:
            Why it cannot end yet; empty where it has ended.
        """
        unsafe = self._unsafe()
        if not unsafe:
            self.stopped = ""
        return unsafe

    def press(self, pressed: bool) -> None:
        """Hear the emergency stop; once pressed it stops until it is let go and released."""
        self._pressed = pressed
        if pressed:
            self.stop(f"the emergency stop on {self._estop} was pressed")

    def lose_estop(self) -> None:
        """Notice that nobody publishes the emergency stop any more, which counts as pressing it."""
        if self._pressed is not None:
            self.stop(f"the emergency stop on {self._estop} has no publisher any more")
        self.forget_estop()

    def forget_estop(self) -> None:
        """Stop listening to the emergency stop; it must be heard again before the gate opens."""
        self._pressed = None

    def _unsafe(self) -> str:
        if not self._estop or self._pressed is False:
            return ""
        return f"the emergency stop on {self._estop} is {'pressed' if self._pressed else 'not heard'}"
