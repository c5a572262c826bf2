"""Node `beacon`: publishes 640x480 images at 30 Hz and says how many, so that another process can tell what arrives.

At this size a frame is larger than what some middlewares move at once: where smaller images arrive, these may not.
"""

from __future__ import annotations

import os

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import Int64

from vlaq_ros.ros.lifetime import ros_lifetime

IMAGE_TOPIC, COUNT_TOPIC = "~/image", "~/count"
RATE_HZ = 30.0


class Beacon(Node):
    """Publishes until it is destroyed; its name tells one run from another."""

    def __init__(self) -> None:
        super().__init__(f"vlaq_beacon_{os.getpid()}")
        self._images = self.create_publisher(Image, IMAGE_TOPIC, qos_profile_sensor_data)
        self._counts = self.create_publisher(Int64, COUNT_TOPIC, 10)
        self._image = Image(height=480, width=640, encoding="rgb8", step=3 * 640, data=bytes(480 * 640 * 3))
        self._sent = 0
        self.create_timer(1 / RATE_HZ, self._publish)

    def _publish(self) -> None:
        self._images.publish(self._image)
        self._sent += 1
        self._counts.publish(Int64(data=self._sent))


def main() -> None:
    """Run the node until SIGINT or SIGTERM."""
    with ros_lifetime("beacon") as stop:
        node, executor = Beacon(), SingleThreadedExecutor()
        executor.add_node(node)
        try:
            while not stop.is_set():
                executor.spin_once(timeout_sec=0.1)
        finally:
            executor.shutdown()
            node.destroy_node()


if __name__ == "__main__":
    main()
