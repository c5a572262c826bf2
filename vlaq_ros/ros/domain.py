"""A ROS domain apart from every other that this package takes on this machine."""

from __future__ import annotations

import socket

from vlaq_ros.errors import VlaqError

LAST = 101  # the ports of higher domains are those that the kernel gives to anybody

_claims: list[socket.socket] = []  # closed by the system when this process ends, however it ends


class NoDomainError(VlaqError):
    """Every domain is taken."""

    def __init__(self) -> None:
        super().__init__(f"all ROS domains from 1 to {LAST} are taken on this machine; end a demo, trial or benchmark")


def claim() -> int:
    """Take a ROS domain that no other process has claimed, until this one ends.

    Raises:
        NoDomainError: every domain is taken.
    """
    for domain_id in range(1, LAST + 1):
        claimed = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claimed.bind(f"\0vlaq_ros/domain/{domain_id}")  # Linux' abstract names: no file is left behind
        except OSError:
            claimed.close()
            continue
        _claims.append(claimed)
        return domain_id
    raise NoDomainError
