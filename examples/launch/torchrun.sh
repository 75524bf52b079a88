#!/usr/bin/env bash
# One run over several machines by torchrun. Start this on every machine, with the same arguments:
#
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=node0 ./torchrun.sh recipe.yaml --run-dir /shared/runs/one
#   NNODES=2 NODE_RANK=1 MASTER_ADDR=node0 ./torchrun.sh recipe.yaml --run-dir /shared/runs/one
#
# NNODES          how many machines                                  (1)
# NODE_RANK       which of them this is; ranks are counted in order  (0)
# RANKS_PER_NODE  ranks on each machine                              (its GPUs)
# MASTER_ADDR     name of machine 0, by which all others reach it    (127.0.0.1)
# MASTER_PORT     a port that is free there                          (29500)
#
# The run folder must be the same on all machines, so name it by --run-dir.
#
# SIGTERM to this script, on any of the machines, stops the run after its iteration, saved, with exit
# code 0 everywhere. torchrun itself would end with 1, and kill ranks that save for over 30 seconds:
# so the ranks are told, and not torchrun.
set -euo pipefail
# With job control torchrun has a process group of its own, so that signals reach it through here.
set -m

torchrun \
    --nnodes "${NNODES:-1}" \
    --node-rank "${NODE_RANK:-0}" \
    --nproc-per-node "${RANKS_PER_NODE:-gpu}" \
    --master-addr "${MASTER_ADDR:-127.0.0.1}" \
    --master-port "${MASTER_PORT:-29500}" \
    --max-restarts 0 \
    -m mimo_core.cli.pretrain "$@" &
torchrun=$!

stop() {
    local ranks
    ranks=$(cat "/proc/$torchrun/task/"*/children 2>/dev/null || true)
    # Before it has ranks, torchrun ends as it does.
    # shellcheck disable=SC2086
    kill -TERM ${ranks:-$torchrun}
}
trap stop TERM
trap 'kill -INT "$torchrun"' INT

# A signal ends the waiting, not torchrun.
code=0
wait "$torchrun" || code=$?
while kill -0 "$torchrun" 2>/dev/null; do
    code=0
    wait "$torchrun" || code=$?
done
exit "$code"
