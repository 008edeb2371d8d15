#!/usr/bin/env bash
# Evaluate a checkpoint with several processes, on one machine or many (torchrun).
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/launch.sh"

[[ $# -ge 3 && $3 =~ ^[1-9][0-9]*$ ]] || usage \
    'Usage: tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of tools/test.py]' '' \
    'GPUS is the number of processes on this machine; without GPUs they run on the CPU.' \
    'Environment: PYTHON (python)' \
    "$several_machines"

with_torchrun --nproc-per-node="$3" "$root/tools/test.py" "$1" "$2" --launcher pytorch "${@:4}"
