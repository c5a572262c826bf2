"""Quality of service that publishers and subscribers must agree on."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, QoSProfile

# Reliable; the last message reaches latecomers.
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
