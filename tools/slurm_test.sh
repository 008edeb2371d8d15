#!/usr/bin/env bash
# Evaluate a checkpoint on a Slurm cluster, one task per GPU.
set -euo pipefail

usage() {
    cat >&2 <<'EOF'
Usage: tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of tools/test.py]

Environment: GPUS (8), GPUS_PER_NODE (at most 8), CPUS_PER_TASK (5), PYTHON (python),
SRUN_ARGS (more arguments of srun, split at spaces)
EOF
    exit 2
}

[[ $# -ge 4 && $3 != -* && $4 != -* ]] || usage
partition=$1
job_name=$2
config=$3
checkpoint=$4
shift 4

gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
read -r -a srun_args <<<"${SRUN_ARGS:-}"

root=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

exec srun \
    --partition="$partition" \
    --job-name="$job_name" \
    --gres="gpu:$gpus_per_node" \
    --ntasks="$gpus" \
    --ntasks-per-node="$gpus_per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${srun_args[@]+"${srun_args[@]}"} \
    "${PYTHON:-python}" -u "$root/tools/test.py" "$config" "$checkpoint" --launcher slurm "$@"
