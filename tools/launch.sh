# Sourced by dist_train.sh, dist_test.sh, slurm_train.sh and slurm_test.sh.
root=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

usage() {
    printf '%s\n' "$@" >&2
    exit 2
}

several_machines='Several machines, the same command on each: NNODES (1), NODE_RANK (0), MASTER_ADDR (127.0.0.1),
PORT (29500), JOB_ID (unmix), which tells apart jobs at the same address'

# with_torchrun [arguments of torchrun] TOOL [its arguments]
with_torchrun() {
    local rendezvous=(--standalone) is_host=0 # without an address, jobs on one machine cannot collide
    if [[ ${NNODES:-1} != 1 ]]; then
        [[ ${NODE_RANK:-0} != 0 ]] || is_host=1
        rendezvous=(
            --nnodes="$NNODES"
            --rdzv-backend=c10d
            --rdzv-endpoint="${MASTER_ADDR:-127.0.0.1}:${PORT:-29500}"
            --rdzv-id="${JOB_ID:-unmix}"
            --rdzv-conf="is_host=$is_host,read_timeout=600"
        )
    fi
    # Slurm sends USR1 or USR2 before the end (--signal); torchrun would die of them and not tell its processes. Versions
    # of torch without this option ignore it.
    export PET_SIGNALS_TO_HANDLE="${PET_SIGNALS_TO_HANDLE:-SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2}"
    # A store that outlives a restart gives the new processes the addresses of the dead ones (pytorch/pytorch#135712).
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    exec "${PYTHON:-python}" -m torch.distributed.run "${rendezvous[@]}" "$@"
}

slurm_environment='Environment: GPUS (8), GPUS_PER_NODE (at most 8), CPUS_PER_TASK (the most workers of a loader, and 1),
PYTHON (python), SRUN_ARGS (more arguments of srun, split at spaces)'

# with_srun PARTITION JOB_NAME TOOL [its arguments]
with_srun() {
    local gpus=${GPUS:-8} cpus=${CPUS_PER_TASK:-} srun_args
    [[ -n $cpus ]] || cpus=$("${PYTHON:-python}" "$root/tools/misc/cpus_per_task.py" "${@:4}")
    local gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
    read -r -a srun_args <<<"${SRUN_ARGS:-}"
    exec srun \
        --partition="$1" \
        --job-name="$2" \
        --ntasks="$gpus" \
        --ntasks-per-node="$gpus_per_node" \
        --gpus-per-task=1 \
        --cpus-per-task="$cpus" \
        --kill-on-bad-exit=1 \
        ${signal:+"--signal=$signal"} \
        ${srun_args[@]+"${srun_args[@]}"} \
        "${PYTHON:-python}" -u "${@:3}"
}
