"""The pilot and a simulated robot; both wait for an instruction on the latched topic `instruction`."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare


def generate_launch_description() -> LaunchDescription:
    """Declare the argument and start both nodes."""
    shipped = PathJoinSubstitution([FindPackageShare("vlaq_ros"), "config", "pilot.yaml"])
    return LaunchDescription(
        [
            DeclareLaunchArgument("params_file", default_value=shipped, description="Parameters of the pilot"),
            Node(package="vlaq_ros", executable="sim_robot", output="screen"),
            Node(
                package="vlaq_ros",
                executable="pilot",
                parameters=[LaunchConfiguration("params_file"), {"autostart": True}],
                output="screen",
            ),
        ]
    )
