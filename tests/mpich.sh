#!/usr/bin/env bash
# Builds tandem with MPICH in a target folder of its own, and runs the tests that start MPI ranks with it. Beside an
# Open MPI: Debian's two MPIs live side by side, and what is called mpicc and mpirun here is MPICH's.
#
#   tests/mpich.sh [TARGET FOLDER]     default: target/mpich
#
# Installs Debian's MPICH if it is missing; where it cannot, it says so and does nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v mpicc.mpich mpirun.mpich >/dev/null; then
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq mpich libmpich-dev; } >/dev/null 2>&1 || {
        echo 'SKIPPED: MPICH is not installed, and apt-get cannot install mpich and libmpich-dev here' >&2
        exit 0
    }
fi

CARGO_TARGET_DIR=$(realpath -m "${1:-${CARGO_TARGET_DIR:-target}/mpich}")
mkdir -p "$CARGO_TARGET_DIR/bin"
for name in mpicc mpirun mpiexec; do
    ln -sf "$(command -v $name.mpich)" "$CARGO_TARGET_DIR/bin/$name"
done
# Beside itself is where mpiexec looks for its helper.
ln -sf "$(command -v hydra_pmi_proxy)" "$CARGO_TARGET_DIR/bin/hydra_pmi_proxy"
export CARGO_TARGET_DIR PATH="$CARGO_TARGET_DIR/bin:$PATH" MPICC=mpicc
mpirun --version | head -n 2

# One test at a time, as under nextest: ranks that wait take the cores from those of other tests, whose signals then come late.
cargo test --no-default-features --features mpi --no-fail-fast --test mpi --test cluster -- --test-threads 1
cargo test --no-default-features --features mpi --test train mpi:: -- --test-threads 1
