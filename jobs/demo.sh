#!/usr/bin/env bash
# The demo: a synthetic log whose best attainable AUC is known, and how near a 3-task MMoE comes to it.
#
# ROWS, RANKS and OUT (a folder, here runs/demo) change its size and place; TANDEM is a binary that is built already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly ROWS=${ROWS:-1000000}
readonly RANKS=${RANKS:-2}
readonly OUT=${OUT:-runs/demo}
readonly TANDEM=${TANDEM:-}
tandem=${TANDEM:-${CARGO_TARGET_DIR:-target}/release/tandem}

step() { printf '\n== %s\n' "$1"; }

# Prints the first number KEY of the JSON object in FILE that BEGINNING opens.
number() {
    local beginning=$1 key=$2 file=$3 found
    found=$(tr -d ' \n' <"$file" | sed -n "s/.*${beginning}[^{}]*\"$key\":\([0-9.eE+-]*\).*/\1/p")
    if [ -z "$found" ]; then
        echo "demo: no $key of $beginning in $file" >&2
        return 1
    fi
    echo "$found"
}

mpi() {
    local flags=() terminal=()
    if [[ "$(mpirun --version)" == *"Open MPI"* ]]; then
        # More ranks than cores must not spin on the core that another waits for. tandem divides the cores
        # among its ranks itself, so no rank may be bound to one of them.
        flags=(--oversubscribe --bind-to none --mca mpi_yield_when_idle 1)
    fi
    if [ -t 2 ]; then
        # mpirun passes stderr on through a pipe, where the progress bar would be plain lines.
        # shellcheck disable=SC2016
        terminal=(bash -c 'exec "$@" 2>/dev/tty' rank)
    fi
    OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 \
        mpirun -n "$RANKS" "${flags[@]}" "${terminal[@]}" "$@"
}

if [ -z "$TANDEM" ]; then
    step "building (minutes the first time)"
    cargo build --release
fi

step "writing a synthetic log of $ROWS rows to $OUT/data"
"$tandem" synth "$OUT/data" --rows "$ROWS" --rates 0.3,0.4,0.5 \
    --cardinalities 10,30,100,300 --users 300

step "training jobs/demo.yaml on $RANKS MPI ranks"
rm -rf "$OUT/run"
mpi "$tandem" train jobs/demo.yaml --set data.root="$OUT/data" --run-dir "$OUT/run"

step "evaluating on the test rows"
"$tandem" eval "$OUT/run" --data "$OUT/data/test" --json >"$OUT/eval.json"

printf '\n%-8s %8s %16s\n' task AUC 'best attainable'
for task in click cart buy; do
    auc=$(number "\"$task\":{" auc "$OUT/eval.json")
    best=$(number "\"name\":\"$task\"," bayes_auc "$OUT/data/synth.json")
    printf '%-8s %8.4f %16.4f\n' "$task" "$auc" "$best"
done
printf '\nThe run is in %s/run: job.yaml, metrics.jsonl, checkpoints.\n' "$OUT"
