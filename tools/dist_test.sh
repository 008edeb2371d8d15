#!/usr/bin/env bash
# Evaluate a checkpoint with several processes, on one machine or many (torchrun).
set -euo pipefail

usage() {
    cat >&2 <<'EOF'
Usage: tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of tools/test.py]

GPUS is the number of processes on this machine; without GPUs they run on the CPU.
Environment: PYTHON (python)
Several machines, the same command on each: NNODES (1), NODE_RANK (0), MASTER_ADDR (127.0.0.1), PORT (29500),
JOB_ID (unmix), which tells apart jobs at the same address
EOF
    exit 2
}

[[ $# -ge 3 && $3 =~ ^[1-9][0-9]*$ ]] || usage
config=$1
checkpoint=$2
gpus=$3
shift 3

root=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
source "$root/tools/rendezvous.sh"

exec "${PYTHON:-python}" -m torch.distributed.run \
    "${rendezvous[@]}" \
    --nproc-per-node="$gpus" \
    "$root/tools/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
