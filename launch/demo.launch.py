"""A simulated robot and the pilot, which flies it as soon as the latched topic `instruction` says what to do."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument as Argument
from launch.actions import IncludeLaunchDescription, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration as Given
from launch.substitutions import PathJoinSubstitution, PythonExpression
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start both nodes."""
    config = PathJoinSubstitution([FindPackageShare("vlaq_ros"), "config"])
    params_file = PathJoinSubstitution([config, "pilot.yaml"])
    profile = PathJoinSubstitution([config, "fastdds_shm32.xml"])
    return LaunchDescription(
        [
            Argument("model", default_value="tabletop_pi0_calibrated", description="Bundle directory, or shipped name"),
            Argument("params_file", default_value=params_file, description="Every other parameter of the pilot"),
            Argument("namespace", default_value="", description="Namespace of both nodes"),
            Argument("use_sim_time", default_value="false", description="Simulated time, which the robot publishes"),
            Argument("fastdds_profile", default_value=profile, description="Fast DDS profile for full-size images"),
            Argument("record", default_value="", description="Directory of a bag for `vlaq replay`; none if empty"),
            IncludeLaunchDescription(
                PathJoinSubstitution([FindPackageShare("vlaq_ros"), "launch", "record.launch.py"]),
                launch_arguments={"record": Given("record")}.items(),
                condition=IfCondition(PythonExpression(["'", Given("record"), "' != ''"])),
            ),
            SetEnvironmentVariable("FASTDDS_DEFAULT_PROFILES_FILE", Given("fastdds_profile")),
            Node(
                package="vlaq_ros",
                executable="sim_robot",
                namespace=Given("namespace"),
                parameters=[{"publish_clock": Given("use_sim_time")}],
                output="screen",
            ),
            Node(
                package="vlaq_ros",
                executable="pilot",
                namespace=Given("namespace"),
                parameters=[
                    Given("params_file"),
                    {
                        "model": Given("model"),
                        "autostart": True,
                        "enabled": True,
                        "use_sim_time": Given("use_sim_time"),
                    },
                ],
                output="screen",
            ),
        ]
    )
