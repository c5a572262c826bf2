"""Quantized vision-language-action policies on a ROS 2 arm, with a precision per chunk."""

__version__ = "0.1.0"
