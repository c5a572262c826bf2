#!/usr/bin/env bash
# What can be known of a Jetson Orin without one: wheels for its Python, the Triton kernels for its GPU, the SDOT kernels
# on its processor, emulated. Usage: test/jetson_check.sh PYTHON
set -euo pipefail

python=$(realpath --no-symlinks "$1")
cd "$(dirname "$0")/.."
work=$(mktemp --directory)
trap 'rm -rf "$work"' EXIT

for program in aarch64-linux-gnu-g++ qemu-aarch64; do
  command -v "$program" >/dev/null || { echo "$program is missing: apt-get install g++-aarch64-linux-gnu qemu-user" >&2; exit 1; }
done

git clone --quiet . "$work/vlaq_ros"  # pip builds in the tree that it is given
for version in 3.12 3.11; do
  echo "== wheels for aarch64, glibc 2.28 or older, CPython $version; torch comes with the board"
  platforms=(manylinux_2_28_aarch64 manylinux_2_27_aarch64 manylinux_2_17_aarch64 manylinux2014_aarch64)
  "$python" -m pip install --quiet --dry-run --ignore-installed --target "$work/target" --only-binary :all: \
    "${platforms[@]/#/--platform=}" --implementation cp --python-version "$version" \
    --abi "cp${version/./}" --abi abi3 --abi none --report "$work/$version.json" "$work/vlaq_ros"
  "$python" - "$work/$version.json" <<'END'
import json, sys
found = [item["metadata"] for item in json.load(open(sys.argv[1]))["install"]]
print(", ".join(sorted((f"{each['name']} {each['version']}" for each in found), key=str.lower)))
END
done

echo "== Triton $("$python" -c 'import triton; print(triton.__version__)'): every kernel compiles for sm_87 without spills"
"$python" -m pytest --quiet -rs test/test_triton.py -k orin
echo "== $(aarch64-linux-gnu-g++ --version | head -n 1); $(qemu-aarch64 --version | head -n 1): SDOT kernels as a Cortex-A76"
"$python" -m pytest --quiet -rs test/test_aarch64.py
