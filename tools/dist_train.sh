#!/usr/bin/env bash
# Train with several processes, on one machine or many (torchrun), and restart them after one has died.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/launch.sh"

[[ $# -ge 2 && $2 =~ ^[1-9][0-9]*$ ]] || usage \
    'Usage: tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]' '' \
    'GPUS is the number of processes on this machine; without GPUs they run on the CPU.' \
    'Environment: PYTHON (python); MAX_RESTARTS (0): after a process has died all go on from the last checkpoint' \
    "$several_machines"

with_torchrun --max-restarts="${MAX_RESTARTS:-0}" --nproc-per-node="$2" \
    "$root/tools/train.py" "$1" --launcher pytorch "${@:3}"
