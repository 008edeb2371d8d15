#!/usr/bin/env bash
# Train with several processes, on one machine or many (torchrun), and again after a process has died.
set -euo pipefail

usage() {
    cat >&2 <<'EOF'
Usage: tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]

GPUS is the number of processes on this machine; without GPUs they run on the CPU.
Environment: MAX_RESTARTS (0), after a process has died all go on from the last checkpoint; PYTHON (python)
Several machines, the same command on each: NNODES (1), NODE_RANK (0), MASTER_ADDR (127.0.0.1), PORT (29500),
JOB_ID (unmix), which tells apart jobs at the same address
EOF
    exit 2
}

[[ $# -ge 2 && $2 =~ ^[1-9][0-9]*$ ]] || usage
config=$1
gpus=$2
shift 2

root=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
source "$root/tools/rendezvous.sh"

exec "${PYTHON:-python}" -m torch.distributed.run \
    "${rendezvous[@]}" \
    --max-restarts="${MAX_RESTARTS:-0}" \
    --nproc-per-node="$gpus" \
    "$root/tools/train.py" "$config" --launcher pytorch "$@"
