#!/usr/bin/env bash
# Runs the batch scripts of slurm/ on a real Slurm of two nodes on this machine: submit, stop before the time limit,
# requeue, lose a node, resume on another number of ranks, cancel, array, days. Takes about two minutes.
#
#   tests/slurm/run.sh [PROGRAM]     default: target/debug/tandem
#
# Needs root on Debian, where it installs Slurm if that is missing, and ../shared/slurm-local.sh, which starts it
# (SLURM_LOCAL names another place). Elsewhere it says so and does nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
repository=$PWD

skip() {
    echo "SKIPPED: tests/slurm: $1" >&2
    exit 0
}

fail() {
    echo "FAILED: $1" >&2
    tail -n 30 "$work"/*.out "$work"/slurm/log/*.log >&2 2>/dev/null || true
    exit 1
}

TANDEM=$(realpath "${1:-${CARGO_TARGET_DIR:-target}/debug/tandem}")
local_slurm=$(realpath -qe "${SLURM_LOCAL:-../shared/slurm-local.sh}") || skip "there is no ../shared/slurm-local.sh"
[ "$(id -u)" = 0 ] || skip "only root can start Slurm's daemons"
if ! command -v slurmctld munged >/dev/null; then
    command -v apt-get >/dev/null || skip "Slurm is not installed, and there is no apt-get to install it"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq slurm-wlm munge; } >/dev/null 2>&1 ||
        skip "apt-get cannot install slurm-wlm and munge here"
fi
if pgrep -x -r R,S,D slurmctld >/dev/null; then skip "a Slurm is running on this machine"; fi

work=$(mktemp -d)
export SLURM_CONF=$work/slurm/slurm.conf TANDEM
# Both nodes are this machine, which mpirun must not notice; it is started by root, on more ranks than cores.
export OMPI_MCA_btl=tcp,self OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_mpi_yield_when_idle=1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
finish() {
    scancel --user=root 2>/dev/null || true
    "$local_slurm" stop "$work/slurm" 2>/dev/null || true
    # The daemons write their state once more while they end.
    for _ in {1..50}; do
        pgrep -x -r R,S,D slurmctld >/dev/null || pgrep -x -r R,S,D slurmd >/dev/null || break
        sleep 0.2
    done
    rm -rf "$work" || echo "left behind: $work" >&2
}
trap finish EXIT
"$local_slurm" start "$work/slurm" 2 || skip "Slurm's daemons do not start here"
sinfo -h -o '%T %D' | grep -q 'idle 2' || skip "Slurm's daemons do not answer here"
cd "$work"
"$TANDEM" -q synth log --rows 12000 --days 3

# submit SCRIPT ARGUMENT…: prints the job's id. SBATCH has options of sbatch.
submit() {
    local options
    read -r -a options <<<"${SBATCH:-}"
    sbatch --parsable "${options[@]}" "$repository/slurm/$1" "${@:2}"
}

state() { scontrol show job "$1" | sed -n 's/^ *JobState=\([A-Z_]*\).*/\1/p'; }

# until_true SECONDS WHAT COMMAND…
until_true() {
    local seconds=$1 what=$2
    for _ in $(seq $((seconds * 10))); do
        if "${@:3}"; then return; fi
        sleep 0.1
    done
    fail "$what"
}

is_state() { [ "$(state "$1")" = "$2" ]; }

# ends JOB STATE
ends() { until_true 60 "job $1 is $(state "$1"), not $2" is_state "$1" "$2"; }

# Steps that the log of a run tells of: none before there is a log.
steps() { sed -n 's/.*"event":"step","step":\([0-9]*\).*/\1/p' "$1/metrics.jsonl" 2>/dev/null | tail -n 1; }
beyond() {
    local steps
    steps=$(steps "$1")
    [ "${steps:-0}" -gt "$2" ]
}
trains() { until_true 60 "$1 does not go beyond step $2" beyond "$1" "$2"; }

# No daemon of a job is left on the nodes.
is_gone() {
    local number
    number=$(scontrol show job "$1" | sed -n 's/^JobId=\([0-9]*\).*/\1/p')
    ! pgrep -f "^slurmstepd: \[$number\." >/dev/null
}

# Slurm lets two minutes pass before a requeued job starts again, so that its first life has surely ended: what a lost
# node still reports of it counts as of the second, which then lacks that node. Here the node reports as its last
# daemon ends.
starts_again() {
    until_true 60 "job $1 is $(state "$1"), not back in the queue" is_state "$1" PENDING
    until_true 60 "job $1 does not end" is_gone "$1"
    sleep 3
    until_true 30 "job $1 is not released" scontrol update JobId="$1" StartTime=now
    until_true 60 "job $1 is not started again" is_state "$1" RUNNING
}

# A node that was down takes jobs again: by our word, or because its daemon has answered meanwhile.
resumes() { scontrol update NodeName="$1" State=RESUME 2>/dev/null || sinfo -h -n "$1" -o %T | grep -qE '^(idle|mixed|allocated)$'; }

# The same files, bit for bit, in the newest checkpoints of two runs.
same() {
    local a b
    a=$(find "$1/checkpoints" -name 'step-*' | sort | tail -n 1) b=$(find "$2/checkpoints" -name 'step-*' | sort | tail -n 1)
    [ "$(basename "$a")" = "$(basename "$b")" ] || fail "$1 ends with $a, $2 with $b"
    local file
    for file in "$a"/*.safetensors; do
        cmp "$file" "$b/$(basename "$file")" || fail "$1 and $2 are not the same"
    done
}

step() { printf '== %s (%s s)\n' "$1" "$SECONDS"; }

short=(--set train.epochs=4 --set "train.eval.every=never" --set "checkpoint.every=25 steps" --set data.test=null
    --set train.global_batch=240 --set train.log_every=5)

step "submit, by srun and by mpirun"
job=$(submit train.sbatch log/job.yaml --run-dir whole "${short[@]}")
ends "$job" COMPLETED
job=$(LAUNCHER=mpirun submit train.sbatch log/job.yaml --run-dir mpirun "${short[@]}")
ends "$job" COMPLETED
same whole mpirun

for launcher in srun mpirun; do
    step "stop, requeue and lose a node under $launcher: nothing is lost"
    run=disturbed-$launcher
    job=$(LAUNCHER=$launcher submit train.sbatch log/job.yaml --run-dir "$run" "${short[@]}")
    trains "$run" 20
    # As --signal does before the time limit.
    scancel --batch --signal=USR1 "$job"
    starts_again "$job"
    trains "$run" 60
    # As preemption does.
    scontrol requeue "$job"
    starts_again "$job"
    trains "$run" 100
    scontrol update NodeName=n2 State=DOWN Reason=test
    until_true 30 "node n2 does not come back" resumes n2
    starts_again "$job"
    ends "$job" COMPLETED
    same whole "$run"
done

step "time limit, then resume on other ranks"
job=$(SBATCH="--time=1 --signal=B:USR1@50" submit train.sbatch log/job.yaml --run-dir limit "${short[@]}" --set train.epochs=200)
until_true 60 "job $job does not start" is_state "$job" RUNNING
until_true 90 "job $job is $(state "$job"), not back in the queue" is_state "$job" PENDING
scancel "$job"
grep -q 'exit code 75: back into the queue' "tandem-$job.out" || fail "job $job did not say that it was requeued"
before=$(steps limit)
job=$(SBATCH="--ntasks-per-node=1" submit train.sbatch log/job.yaml --run-dir limit "${short[@]}" --set train.max_steps=$((before + 20)))
ends "$job" COMPLETED
grep -q '"ranks":2' limit/metrics.jsonl || fail "the run did not go on with 2 ranks"

step "cancel: the job stays away, and its run can go on"
job=$(submit train.sbatch log/job.yaml --run-dir cancelled "${short[@]}")
trains cancelled 20
scancel "$job"
ends "$job" CANCELLED
sleep 2
is_state "$job" CANCELLED || fail "job $job came back after scancel"
job=$(submit train.sbatch log/job.yaml --run-dir cancelled "${short[@]}")
ends "$job" COMPLETED
same whole cancelled

step "array, of which one element is stopped"
job=$(SEEDS="1 2" SBATCH=--array=0-1 submit array.sbatch log/job.yaml -- "${short[@]}" --set train.epochs=2)
trains runs/job-seed2 5
scancel --batch --signal=USR1 "${job}_1"
ends "${job}_0" COMPLETED
starts_again "${job}_1"
ends "${job}_1" COMPLETED
for seed in 1 2; do
    grep -q "^seed: $seed" "runs/job-seed$seed/job.yaml" || fail "no run with seed $seed"
done

step "days"
job=$(submit daily.sbatch log/job.yaml 2024-01-01 2024-01-03 "${short[@]}" --set train.epochs=1 --set data.valid=null)
ends "$job" COMPLETED
for day in 1 2 3; do
    [ -e "runs/daily/2024-01-0$day/done" ] || fail "day $day was not trained"
done
grep -q 'checkpoint: runs/daily/2024-01-02' runs/daily/2024-01-03/job.yaml || fail "the days do not go on from one another"

step "separate worlds are refused"
code=0
srun --nodes=2 --ntasks=4 --mpi=none "$TANDEM" train log/job.yaml --run-dir worlds >worlds.out 2>&1 || code=$?
[ "$code" = 2 ] || fail "4 worlds of one rank ended with $code"
grep -q 'fix: use .srun --mpi=pmix' worlds.out || fail "nothing was said about separate worlds"

step "done"
