"""Quality of service that publishers and subscribers must agree on, and the events of those that do not."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, QoSProfile

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ModuleNotFoundError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

# A default event would be waited on at every wake-up of the node; faults of publishers are read from the graph.
SILENT_PUBLISHER = PublisherEventCallbacks(use_default_callbacks=False)
SILENT_SUBSCRIPTION = SubscriptionEventCallbacks(use_default_callbacks=False)

# Reliable; the last message reaches latecomers.
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
