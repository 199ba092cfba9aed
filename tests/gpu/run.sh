#!/usr/bin/env bash
# The GPU check, from a checkout on a machine with an NVIDIA GPU and no package index.
#
#   tests/gpu/run.sh [DEVICE]        DEVICE: cuda (default); cpu tries the script itself
#
# Uses one interpreter (PYTHON, default python3) that has the libraries, for the harness and for every engine; wheels it
# lacks can stand on PYTHONPATH (pack_rtx.sh packs TensorRT for RTX). In order of value, so that a cut-off run still says
# something; result files and the table go to OUT (default: a folder in the temporary directory).
set -uo pipefail
cd "$(dirname "$0")/../.."

device=${1:-cuda}
python=$(command -v "${PYTHON:-python3}")
out=${OUT:-$(mktemp -d)}
export PYTHONPATH="orchestrator/src:protocol/src:models/src${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONPATH="$(for p in ${PYTHONPATH//:/ }; do printf '%s:' "$(realpath "$p")"; done)"

interpreters=()
for folder in packages/engine-*; do
    interpreters+=(--python "$(basename "$folder")=$python")
done
bench() { # NAME MODEL ARGUMENTS…
    local name=$1 model=$2
    shift 2
    echo "== $name"
    "$python" -m enginebench run all --device "$device" --model "$model" "${interpreters[@]}" \
        --results "$out/runs" -o md "$@" | tee "$out/$name.md"
}

failed=0
bench tiny tiny --preset smoke || failed=1
bench 1b "${MODEL:-llama3-1b}" --preset smoke || failed=1
for run in "$out"/runs/*/; do cp "$run/result.json" "$out/$(basename "$run").json"; done
echo "== engine tests marked gpu"
for folder in packages/engine-*; do
    PYTHONPATH="$PWD/$folder/src:$PYTHONPATH" "$python" -m pytest -q -m gpu "$folder/tests" || [ $? -eq 5 ] || failed=1
done
echo "results: $out"
cat "$out"/*.md
exit $failed
