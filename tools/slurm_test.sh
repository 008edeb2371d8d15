#!/usr/bin/env bash
# Evaluate a checkpoint on a Slurm cluster, one task per GPU.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/launch.sh"

[[ $# -ge 4 && $3 != -* && $4 != -* ]] || usage \
    'Usage: tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of tools/test.py]' '' "$slurm_environment"

with_srun "$1" "$2" "$root/tools/test.py" "$3" "$4" --launcher slurm "${@:5}"
