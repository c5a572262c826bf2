#!/usr/bin/env bash
# Install the committed tree in clean folders, with pip and then with colcon, and run what each installs.
# Usage: test/install_test.sh PYTHON
set -euo pipefail

python=$(realpath --no-symlinks "$1")
source=$(realpath "$(dirname "$0")/..")
work=$(mktemp --directory)
trap 'rm -rf "$work"' EXIT
git clone --quiet "$source" "$work/src/vlaq_ros"
cd "$work"
"$python" -m venv venv
bin=$work/venv/bin

echo "== pip install '.[ros,sim]'"
pip=("$bin/python" -m pip install --quiet --constraint src/vlaq_ros/constraints.txt)
"${pip[@]}" torch
"${pip[@]}" 'src/vlaq_ros[ros,sim]'
"$bin/vlaq" --help
for command in demo rollout train inspect; do "$bin/vlaq" "$command" --help >/dev/null; done
"$bin/vlaq" inspect

echo "== colcon build, in the venv that has rclpy"
"$bin/python" -m pip uninstall --quiet --yes vlaq_ros  # its dependencies stay
"${pip[@]}" colcon-common-extensions
PATH=$bin:$PATH colcon build --base-paths src
set +u  # colcon's setup files read variables that may be unset
source install/setup.bash
set -u
share=$("$bin/python" -c "from ament_index_python import get_package_share_path as path; print(path('vlaq_ros'))")
[[ $share == "$work/install/vlaq_ros/share/vlaq_ros" ]]
grep --quiet ament_prefix_path "$share/package.dsv"  # missing where colcon took the package for plain Python
lib=install/vlaq_ros/lib/vlaq_ros
"$lib/vlaq" inspect
export ROS_AUTOMATIC_DISCOVERY_RANGE=OFF
echo "-- sim_robot runs until SIGINT"
timeout --preserve-status --signal=INT 20 "$lib/sim_robot"
echo "-- pilot answers a missing model in a sentence"
if timeout 60 "$lib/pilot" --ros-args -p autostart:=true -p model:=nowhere 2>&1 | tee pilot.txt; then exit 1; fi
grep --quiet "model directory '.*nowhere' has no" pilot.txt

echo "== pip and colcon installed it"
