#!/usr/bin/env bash
# TensorRT for RTX for a GPU machine with no package index, in parts small enough to be carried one at a time.
#
#   tests/gpu/pack_rtx.sh FOLDER [PYTHON_VERSION]     PYTHON_VERSION: of the GPU machine, default 3.12
#
# There, with all parts in FOLDER:
#   cat FOLDER/rtx.part.* | tar -xz -C FOLDER && PYTHONPATH=FOLDER tests/gpu/run.sh
set -euo pipefail
cd "$(dirname "$0")/../.."

folder=${1:?which folder?}
version=${2:-3.12}
mkdir -p "$folder"
unpacked=$(mktemp -d)
trap 'rm -rf "$unpacked"' EXIT
grep -oE '^tensorrt-rtx[a-z0-9-]*==[0-9.]+' packages/engine-tensorrt/pins.txt >"$unpacked/requirements"
uv pip install --quiet --no-deps --python-version "$version" --target "$unpacked/site" -r "$unpacked/requirements"
rm -f "$folder"/rtx.part.*
tar -C "$unpacked/site" -cz . | split -b 60M - "$folder/rtx.part."
ls -l "$folder"/rtx.part.*
