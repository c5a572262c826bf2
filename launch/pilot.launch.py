"""The pilot, for a robot that runs already: ros2 launch vlaq_ros pilot.launch.py robot:=my_arm.yaml autostart:=true.

A plain node that configures itself, as launch_ros drives lifecycle nodes on some distributions only.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument as Argument
from launch.actions import IncludeLaunchDescription
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration as Given
from launch.substitutions import PathJoinSubstitution, PythonExpression
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments, which win over the parameters file, and start the node."""
    shipped = PathJoinSubstitution([FindPackageShare("vlaq_ros"), "config", "pilot.yaml"])
    return LaunchDescription(
        [
            Argument("robot", default_value="sim_panda", description="Robot file, or the name of a shipped one"),
            Argument("model", default_value="tabletop_pi0_calibrated", description="Bundle directory, or shipped name"),
            Argument("params_file", default_value=shipped, description="Every other parameter of the pilot"),
            Argument("namespace", default_value="", description="Namespace of the robot's topics"),
            Argument(
                "instruction", default_value="instruction", description="Its topic; with a leading / for two arms"
            ),
            Argument("autostart", default_value="false", description="Configure and activate by itself"),
            Argument("enabled", default_value="false", description="Command the arm before ~/enable is called"),
            Argument("dry_run", default_value="false", description="Publish commands on ~/shadow/TOPIC alone"),
            Argument("use_sim_time", default_value="false", description="Take the time from /clock"),
            Argument("log_level", default_value="info", description="debug, info, warn, error or fatal"),
            Argument("record", default_value="", description="Directory of a bag for `vlaq replay`; none if empty"),
            IncludeLaunchDescription(
                PathJoinSubstitution([FindPackageShare("vlaq_ros"), "launch", "record.launch.py"]),
                launch_arguments={"record": Given("record")}.items(),
                condition=IfCondition(PythonExpression(["'", Given("record"), "' != ''"])),
            ),
            Node(
                package="vlaq_ros",
                executable="pilot",
                namespace=Given("namespace"),
                parameters=[
                    Given("params_file"),
                    {"robot": Given("robot"), "model": Given("model"), "autostart": Given("autostart")},
                    {"enabled": Given("enabled"), "dry_run": Given("dry_run"), "use_sim_time": Given("use_sim_time")},
                ],
                remappings=[("instruction", Given("instruction"))],
                ros_arguments=["--log-level", Given("log_level")],
                output="screen",
            ),
        ]
    )
