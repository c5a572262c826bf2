"""Quantized vision-language-action policies on a ROS 2 arm.

Commands:
  demo      a policy picks and places in MuJoCo, through two ROS 2 processes
  rollout   closed-loop success of a policy at one precision, in one process
  train     train the embedded policy from seeds
  quantize  make a bundle of a checkpoint: packed codes that every precision is read from
  calibrate make a bundle that keeps a budget, by what observations say of every channel
  inspect   what a model directory holds, and the bytes that it takes
  seams     what happens where one chunk takes over from another, at which latency
  study     methods, widths and switching rules held against each other, in closed loop
  trial     trials on a robot, in random order and in pairs, and their record
  replay    a policy on recordings, scored before the arm moves
  doctor    what is missing on this machine, and of a robot's topics
  bench     how fast the kernels and the embedded policy are on this machine, and beside what pip installs

Examples:
  vlaq demo
  vlaq rollout --precision auto --episodes 100
  vlaq COMMAND --help
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from vlaq_ros import __version__
from vlaq_ros.errors import MissingDependencyError, VlaqError

# vlaq_ros/cli/NAME.py, with configure(parser) and run(arguments)
COMMANDS = (
    "demo",
    "rollout",
    "train",
    "quantize",
    "calibrate",
    "inspect",
    "seams",
    "study",
    "bench",
    "trial",
    "replay",
    "doctor",
)
USER_ERROR, INTERRUPTED = 2, 130  # argparse's own, and 128 + SIGINT as shells report it


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; only the command's own file is imported.

    Raises:
        SystemExit: the arguments cannot be parsed, or ask for help.
    """
    front = _parser("vlaq", __doc__)
    front.add_argument("--version", action="version", version=f"vlaq {__version__}")
    front.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the above")
    front.add_argument("arguments", nargs=argparse.REMAINDER, help="of the command")
    chosen = front.parse_args(argv)

    command = import_module(f"vlaq_ros.cli.{chosen.command}")
    parser = _parser(f"{front.prog} {chosen.command}", command.__doc__)
    command.configure(parser)
    arguments = parser.parse_args(chosen.arguments)
    try:
        exit_code: int = command.run(arguments)
    except VlaqError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return USER_ERROR
    except ModuleNotFoundError as error:
        if error.name not in MissingDependencyError.REMEDIES:
            raise
        print(f"{parser.prog}: {MissingDependencyError(error.name)}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    return exit_code


def _parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
