"""Records what a replay needs, with or without a pilot: ros2 launch vlaq_ros record.launch.py robot:=X record:=DIR."""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument as Argument
from launch.actions import ExecuteProcess, OpaqueFunction

from vlaq_ros.bags.record_command import record_command
from vlaq_ros.config import RobotConfig


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start the recorder."""
    return LaunchDescription(
        [
            Argument("record", description="Directory of the bag (MCAP), which must not exist"),
            Argument("robot", default_value="sim_panda", description="Robot file, or the name of a shipped one"),
            Argument("namespace", default_value="", description="Namespace of the robot's topics"),
            Argument("instruction", default_value="instruction", description="Topic of the instruction"),
            OpaqueFunction(function=_record),
        ]
    )


def _record(context: LaunchContext) -> list[ExecuteProcess]:
    given = context.launch_configurations
    robot = RobotConfig.load(given["robot"])
    command = record_command(robot, given["record"], namespace=given["namespace"], instruction=given["instruction"])
    return [ExecuteProcess(cmd=command, output="screen")]
