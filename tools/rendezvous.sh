# Sourced by dist_train.sh and dist_test.sh: sets `rendezvous`, how torchrun finds its like on the other machines.
# One machine needs no address, so jobs beside each other cannot collide. With several, that of NODE_RANK 0 is the host.
if [[ ${NNODES:-1} == 1 ]]; then
    rendezvous=(--standalone)
else
    is_host=0
    [[ ${NODE_RANK:-0} != 0 ]] || is_host=1
    rendezvous=(
        --nnodes="$NNODES"
        --rdzv-backend=c10d
        --rdzv-endpoint="${MASTER_ADDR:-127.0.0.1}:${PORT:-29500}"
        --rdzv-id="${JOB_ID:-unmix}"
        --rdzv-conf="is_host=$is_host,read_timeout=600"
    )
fi
# A store that outlives a restart hands the new processes the addresses of the dead (pytorch/pytorch#135712).
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
