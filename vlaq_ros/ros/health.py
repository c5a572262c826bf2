"""How a configured pilot is, component by component, for /diagnostics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from vlaq_ros.flight import Flight
from vlaq_ros.observe import JOINT_STATES
from vlaq_ros.ros import machine
from vlaq_ros.ros.encode import ERROR, OK, WARN, Health


def of_flight(
    flight: Flight,
    now_ns: int,
    *,
    unheard: Mapping[str, str],
    starved: Mapping[str, str],
    commanders: Iterable[str],
) -> Iterator[Health]:
    """Judge every component.

    Args:
        flight: that is judged.
        now_ns: for the ages of the inputs.
        unheard: topics whose publishers cannot be heard, and why.
        starved: cameras that lose most of their images, as sentences.
        commanders: other nodes that command the arm.
    """
    yield from _inputs(flight, now_ns, unheard, starved)
    yield _policy(flight)
    yield _controller(flight, commanders)
    gate = flight.gate
    yield Health("safety gate", WARN if gate.why else OK, gate.why or "open", {"enabled": str(gate.enabled)})
    yield Health("machine", OK, "running", machine.values())


def _inputs(flight: Flight, now_ns: int, unheard: Mapping[str, str], starved: Mapping[str, str]) -> Iterator[Health]:
    """Say which inputs block inference, and how old all of them are."""
    observer, reasons = flight.observer, flight.observer.blocking(now_ns)
    ages = {name: f"{1e3 * age_s:.0f} ms" for name, age_s in observer.ages_s(now_ns).items()}
    joint_age = {JOINT_STATES: ages.pop(JOINT_STATES), "jumps": str(flight.log.jumps)}
    rates = {f"{name} rate": f"{rate_hz:.1f} Hz" for name, rate_hz in observer.rates_hz(now_ns).items()}
    jump = [f"{JOINT_STATES} jump: {flight.jump}"] if flight.jump else []
    for component, prefix, values, faults in (
        ("cameras", "camera", ages | rates, starved.values()),
        (JOINT_STATES, JOINT_STATES, joint_age, jump),
        ("instruction", "instruction", {"instruction": observer.instruction}, ()),
    ):
        said = [*(reason for reason in reasons if reason.startswith(prefix)), *faults]
        yield Health(component, WARN if said else OK, "; ".join(said) or "fresh", values)
    yield Health("topics", ERROR if unheard else OK, "; ".join(unheard.values()) or "heard")


def _policy(flight: Flight) -> Health:
    log, decision = flight.log, flight.pilot.decision
    values = {
        "latency p50": f"{1e3 * log.latency_s(50):.0f} ms",
        "latency p95": f"{1e3 * log.latency_s(95):.0f} ms",
        "deadline misses": str(log.deadline_misses),
        **{f"share of {name}": f"{share:.3f}" for name, share in log.precision_shares().items()},
        **{f"rejected for {kind}": str(count) for kind, count in log.rejected.items()},
        **{f"{kind} limited": str(count) for kind, count in log.violations.items()},
    }
    if fault := flight.stalled or flight.fault:
        return Health("policy", ERROR, fault, values)
    lost = "".join(f"; {sentence}" for sentence in flight.lost.values())
    return Health("policy", WARN if lost else OK, f"{decision.precision}: {decision.reason}{lost}", values)


def _controller(flight: Flight, commanders: Iterable[str]) -> Health:
    others = ", ".join(commanders)
    if flight.unfollowed:
        return Health("controller", ERROR, flight.unfollowed, {"other commanders": others})
    said = f"{others} can command the arm too; one alone may" if others else "follows"
    return Health("controller", WARN if others else OK, said, {"other commanders": others})
