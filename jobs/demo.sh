#!/usr/bin/env bash
# The demo: a synthetic log whose best attainable AUC is known, and how near a 3-task MMoE comes to it.
# ROWS and RANKS change its size. Everything is written under runs/demo.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly ROWS=${ROWS:-400000}
readonly RANKS=${RANKS:-2}
readonly OUT=runs/demo
tandem=${CARGO_TARGET_DIR:-target}/release/tandem

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
    local flags=()
    if [[ "$(mpirun --version)" == *"Open MPI"* ]]; then
        # More ranks than cores must not spin on the core that another waits for. tandem divides the cores
        # among its ranks itself, so no rank may be bound to one of them.
        flags=(--oversubscribe --bind-to none --mca mpi_yield_when_idle 1)
    fi
    OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun -n "$RANKS" "${flags[@]}" "$@"
}

step "building (minutes the first time)"
cargo build --release

step "writing a synthetic log of $ROWS rows to $OUT/data"
"$tandem" synth "$OUT/data" --rows "$ROWS"

step "training jobs/demo.yaml on $RANKS MPI ranks"
rm -rf "$OUT/run"
mpi "$tandem" train jobs/demo.yaml --run-dir "$OUT/run"

step "evaluating on the test rows"
"$tandem" eval "$OUT/run" --data "$OUT/data/test" --json >"$OUT/eval.json"

printf '\n%-8s %8s %16s\n' task AUC 'best attainable'
for task in click cart buy; do
    auc=$(number "\"$task\":{" auc "$OUT/eval.json")
    best=$(number "\"name\":\"$task\"," bayes_auc "$OUT/data/synth.json")
    printf '%-8s %8.4f %16.4f\n' "$task" "$auc" "$best"
done
printf '\nThe run is in %s/run: job.yaml, metrics.jsonl, checkpoints.\n' "$OUT"
