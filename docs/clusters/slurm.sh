#!/usr/bin/env bash
# A study on SLURM, from the project's root: sbatch docs/clusters/slurm.sh
#
# SPACE and STUDY, which sbatch passes on, name the space and the study's folder; options of `cfamc tune` may follow:
#
#   SPACE=mine.yaml STUDY=/studies/mine sbatch --nodes=4 docs/clusters/slurm.sh --set resources.trials_at_once=16
#
# Ray runs on all nodes of the job, the command on the first. The project, with its .venv, and the study's folder are on
# storage that all nodes mount. Two minutes before the time limit, or when the job is preempted, the command stops with
# everything kept, and the job is queued again; it goes on where it was until the study is over.
#SBATCH --job-name=cfamc
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -uo pipefail

space=${SPACE:-pareto.yaml}
study=${STUDY:-/studies/pareto}
bin=${BIN:-.venv/bin}
export RAY_TMPDIR="/tmp/cfamc-$SLURM_JOB_ID" # apart from the Ray of other jobs on these nodes
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n') # which keeps others on these nodes out
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
ip=$(getent ahostsv4 "${nodes[0]}" | awk 'NR == 1 { print $1 }')
address="$ip:$((20000 + SLURM_JOB_ID % 10000))"
child=
stopping=

# Runs a command until it ends, and passes a signal on to it. The signal interrupts `wait`, so it is repeated.
run() {
    local code=143
    [ -n "$stopping" ] && return "$code"
    "$@" &
    child=$!
    while kill -0 "$child" 2> /dev/null; do
        wait "$child"
        code=$?
    done
    child=
    return "$code"
}

stop() {
    [ -z "$stopping" ] && [ -n "$child" ] && kill -TERM "$child" # once, for a second signal would cut the report
    stopping=yes
}
trap stop TERM USR1

# Ray on some nodes of the job, in the background; SLURM ends it with the job.
start_ray() {
    local count=$1 where=$2
    shift 2
    srun --overlap --nodes="$count" --ntasks="$count" --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
        "$where" "$bin/ray" start --block --disable-usage-stats --num-cpus="$SLURM_CPUS_PER_TASK" "$@" &
}

start_ray 1 --nodelist="${nodes[0]}" --head --node-ip-address="$ip" --port="${address#*:}" --include-dashboard=false
if [ "${#nodes[@]}" -gt 1 ]; then
    start_ray $((${#nodes[@]} - 1)) --exclude="${nodes[0]}" --address="$address"
fi
all_nodes_joined='
import sys, time, ray
end, nodes = time.monotonic() + 300, []
while len(nodes) < int(sys.argv[2]):
    if time.monotonic() > end:
        sys.exit(f"{len(nodes)} of {sys.argv[2]} nodes have joined Ray at {sys.argv[1]} within 5 minutes")
    time.sleep(1)
    try:
        ray.init(sys.argv[1], ignore_reinit_error=True, log_to_driver=False)
        nodes = [node for node in ray.nodes() if node["Alive"]]
    except ConnectionError:
        pass  # the first node is not ready
'

resume=()
[ -e "$study/study.yaml" ] && resume=(--resume)
run "$bin/python" -c "$all_nodes_joined" "$address" "${#nodes[@]}" &&
    run "$bin/cfamc" tune --space "$space" --out "$(dirname "$study")" --set name="$(basename "$study")" \
        --address "$address" "${resume[@]}" "$@"
code=$?
if [ -n "$stopping" ] && [ "$code" = 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
