# Sourced by the batch scripts beside it: starts the ranks of a Slurm job, passes signals on to them, and puts the
# job back into the queue when it was stopped before its end.
# shellcheck shell=bash
#
# What a user may set:
#   TANDEM     the program; default: tandem, from the path
#   LAUNCHER   srun (default: `srun --mpi=pmix`), or mpirun
#   PMI        what `srun --mpi=` is given; `srun --mpi=list` says what there is. Default: pmix
#   RESTARTS   how often a run that stood still is started again; default 3

# Exit codes of tandem: stopped by a signal after saving, and ended by its watchdog.
readonly EXIT_STOPPED=75 EXIT_STUCK=76

asked=no signalled=no launcher=
# The number of the last element of an array is that of the array, too, and would put all of it back into the queue.
job_id=$SLURM_JOB_ID
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then job_id=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
readonly job_id

# Slurm signals the script alone, and mpirun takes SIGTERM as an order to kill: ranks get what both launchers pass on.
pass_on() {
    asked=yes signalled=yes
    echo "$(date '+%F %T') asked to stop: the ranks save and leave"
    if [ -n "$launcher" ]; then kill -USR1 "$launcher" 2>/dev/null || true; fi
}
trap pass_on USR1 TERM

# launch PROGRAM [ARGUMENT…]: on every task of the allocation.
launch() {
    case "${LAUNCHER:-srun}" in
    srun)
        # Since Slurm 22.05 steps do not inherit the cores of a task. A rank that fails must end the others.
        exec srun --mpi="${PMI:-pmix}" --kill-on-bad-exit=1 \
            ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} "$@"
        ;;
    mpirun)
        # tandem divides the cores of a machine among its ranks itself.
        exec mpirun -n "$SLURM_NTASKS" --bind-to none "$@"
        ;;
    *)
        echo "LAUNCHER=$LAUNCHER is neither srun nor mpirun" >&2
        exit 2
        ;;
    esac
}

# train JOB [OPTION…]: `tandem train` on all ranks, from the newest checkpoint on if there is one. Returns its exit code.
train() {
    if [ "$asked" = yes ]; then return "$EXIT_STOPPED"; fi
    launch "${TANDEM:-tandem}" train "$@" --resume &
    launcher=$!
    local code=0
    # A signal ends `wait` before the ranks have ended.
    signalled=yes
    while [ "$signalled" = yes ]; do
        signalled=no code=0
        wait "$launcher" || code=$?
    done
    launcher=
    # MPICH's mpirun, signalled, loses the exit code of its ranks at times. A run that is done ends at once when it is
    # started again.
    if [ "$asked" = yes ] && [ "$code" = 0 ]; then code=$EXIT_STOPPED; fi
    return "$code"
}

# leave CODE: ends the script. A run that has not come to its end goes back into the queue.
leave() {
    local code=$1 state
    case "$code" in
    "$EXIT_STOPPED") ;;
    "$EXIT_STUCK")
        if [ "${SLURM_RESTART_COUNT:-0}" -ge "${RESTARTS:-3}" ]; then
            echo "stood still again after ${SLURM_RESTART_COUNT:-0} restarts: not started once more" >&2
            exit "$code"
        fi
        ;;
    *)
        # The signal may have come before the launcher or the ranks could take it.
        if [ "$asked" = no ] || [ "$code" -lt 128 ]; then exit "$code"; fi
        ;;
    esac
    # After scancel the ranks have saved and left, too, but nobody wants them back; what is preempted, or loses a
    # node, Slurm itself puts back.
    state=$(scontrol show job "$job_id" | sed -n 's/^ *JobState=\([A-Z_]*\).*/\1/p')
    if [ "$state" != RUNNING ]; then
        echo "the job is $state: left to Slurm"
        exit "$code"
    fi
    echo "$(date '+%F %T') exit code $code: back into the queue"
    scontrol requeue "$job_id" ||
        echo "Slurm will not requeue this job (see JobRequeue in slurm.conf): submit it again to go on" >&2
    exit "$code"
}
