"""The gate: open only while everybody agrees, whatever happened before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vlaq_ros.gate import Gate

MOVES = {
    "enable": lambda gate: setattr(gate, "enabled", True),
    "disable": lambda gate: setattr(gate, "enabled", False),
    "stop": lambda gate: gate.stop("a person asked for it"),
    "release": Gate.release,
    "press": lambda gate: gate.press(True),
    "let go": lambda gate: gate.press(False),
    "lose": Gate.lose_estop,
    "forget": Gate.forget_estop,
}


def test_without_an_emergency_stop_the_switch_decides() -> None:
    gate = Gate(enabled=False, estop="")
    assert (gate.commands, gate.why) == (False, "not enabled: call ~/enable")
    gate.enabled = True
    assert (gate.commands, gate.why) == (True, "")


def test_a_stop_latches_with_its_first_reason() -> None:
    gate = Gate(enabled=True, estop="")
    gate.stop("first")
    gate.stop("second")
    assert (gate.commands, gate.stopped, gate.why) == (False, "first", "stopped: first; call ~/release")
    assert gate.release() == ""
    assert (gate.commands, gate.stopped) == (True, "")


def test_an_emergency_stop_must_be_heard_let_go_and_released() -> None:
    gate = Gate(enabled=True, estop="estop")
    assert gate.why == "the emergency stop on estop is not heard"
    gate.press(False)
    assert gate.commands, "what was never pressed needs no release"
    gate.press(True)
    assert gate.release() == "the emergency stop on estop is pressed"
    assert gate.why == "stopped: the emergency stop on estop was pressed; call ~/release"
    gate.press(False)
    assert not gate.commands
    assert gate.release() == ""
    assert gate.commands


def test_an_emergency_stop_that_is_lost_counts_as_pressed() -> None:
    gate = Gate(enabled=True, estop="estop")
    gate.lose_estop()
    assert gate.stopped == "", "it was never heard"
    gate.press(False)
    gate.lose_estop()
    assert gate.stopped == "the emergency stop on estop has no publisher any more"
    assert gate.release() == "the emergency stop on estop is not heard"
    gate.press(False)
    assert not gate.commands
    assert gate.release() == ""
    assert gate.commands


@given(st.lists(st.sampled_from(sorted(MOVES))), st.booleans())
def test_it_is_open_only_where_nothing_that_closes_it_came_last(moves: list[str], estop: bool) -> None:
    gate = Gate(enabled=False, estop="estop" if estop else "")
    for name in moves:
        MOVES[name](gate)
    last = {name: index for index, name in enumerate(moves)}

    def after(opening: str, *closing: str) -> bool:
        return last.get(opening, -1) > max((last.get(name, -1) for name in closing), default=-1)

    if gate.commands:
        assert after("enable", "disable")
        assert "stop" not in last or after("release", "stop")
        assert not estop or after("let go", "press", "lose", "forget")
        assert not estop or "press" not in last or after("release", "press")
    assert gate.commands == (gate.why == "")
