"""The pilot alone, for a robot that runs already: ros2 launch vlaq_ros pilot.launch.py autostart:=true."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start the node."""
    shipped = PathJoinSubstitution([FindPackageShare("vlaq_ros"), "config", "pilot.yaml"])
    return LaunchDescription(
        [
            DeclareLaunchArgument("params_file", default_value=shipped, description="Parameters of the pilot"),
            DeclareLaunchArgument("namespace", default_value="", description="Namespace of the robot's topics"),
            DeclareLaunchArgument("autostart", default_value="false", description="Fly without a lifecycle manager"),
            Node(
                package="vlaq_ros",
                executable="pilot",
                namespace=LaunchConfiguration("namespace"),
                parameters=[LaunchConfiguration("params_file"), {"autostart": LaunchConfiguration("autostart")}],
                output="screen",
            ),
        ]
    )
