#!/usr/bin/env bash
# Train with several processes, on one machine or many (torchrun).
set -euo pipefail

usage() {
    cat >&2 <<'EOF'
Usage: tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]

GPUS is the number of processes on this machine; without GPUs they run on the CPU.
Environment: NNODES (1), NODE_RANK (0), MASTER_ADDR (127.0.0.1), PORT (29500), PYTHON (python)
EOF
    exit 2
}

[[ $# -ge 2 && $2 =~ ^[1-9][0-9]*$ ]] || usage
config=$1
gpus=$2
shift 2

root=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$gpus" \
    "$root/tools/train.py" "$config" --launcher pytorch "$@"
