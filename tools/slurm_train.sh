#!/usr/bin/env bash
# Train on a Slurm cluster, one task per GPU.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/launch.sh"

[[ $# -ge 3 && $3 != -* ]] || usage \
    'Usage: tools/slurm_train.sh PARTITION JOB_NAME CONFIG [arguments of tools/train.py]' '' "$slurm_environment" \
    'SIGNAL (USR1@120: 120 s before the time limit the run saves and ends)'

signal=${SIGNAL:-USR1@120}

with_srun "$1" "$2" "$root/tools/train.py" "$3" --launcher slurm "${@:4}"
