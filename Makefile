# `make demo` and `make test` are all a newcomer needs: both install what is missing, and say so first.

SHELL := bash
# Rust that was installed a minute ago is not yet on the shell's path.
export PATH := $(PATH):$(HOME)/.cargo/bin

SCRIPTS := .ci/deny .ci/install .ci/run jobs/demo.sh slurm/array.sbatch slurm/daily.sbatch slurm/ranks.sh \
	slurm/train.sbatch tests/mpich.sh tests/slurm/run.sh

.PHONY: help demo test test-slurm test-hangs test-mpich build lint doc deny bench checkpoint growth scaling decode peer results balancing install

help:
	@echo 'make demo    build, write a synthetic log, train on it with 2 MPI ranks, compare with the best possible'
	@echo 'make test    run every test'
	@echo 'make test-slurm   run the batch scripts on a Slurm of two nodes on this machine (installs it; needs root)'
	@echo 'make test-hangs   kill and stop ranks 50 times, and compare what they train'
	@echo 'make test-mpich   build with MPICH and run the tests of MPI ranks on it'
	@echo 'make build   build target/release/tandem'
	@echo 'make lint    check format, warnings and shell scripts'
	@echo 'make doc     build the documentation of the code'
	@echo 'make deny    check advisories and licences of the dependencies (skipped where cargo-deny is missing)'
	@echo 'make bench   run the benchmarks'
	@echo 'make checkpoint  time saving and loading 4 GiB against dd on the same disk'
	@echo 'make growth  time steps against table rows, tasks, ranks and sequence length, and draw docs/growth-*.svg'
	@echo 'make scaling  predict steps of up to 1024 ranks from one, and check the prediction by simulation: docs/scaling.md'
	@echo 'make decode  time the reading of Parquet against pyarrow (installs it under runs/decode)'
	@echo 'make peer    time tandem against TorchRec (installs PyTorch under runs/peer; needs ../shared/bench)'
	@echo 'make results train the jobs on public data over several seeds (needs the data of data.root)'
	@echo 'make balancing train every balancing method on logs of known conflict, and write the tables of docs/balancing.md'

install:
	@.ci/install

demo: install
	@jobs/demo.sh

# nextest runs each test in its own process and ends one that hangs, but knows no documentation tests.
test:
	@.ci/install test
	@if cargo nextest --version >/dev/null 2>&1; then \
	    echo cargo nextest run; cargo nextest run; \
	else \
	    echo 'cargo-nextest is not installed (cargo install cargo-nextest --locked): using cargo test'; \
	    cargo test --lib --bins --tests; \
	fi
	cargo test --doc

# The program that the tests of `make test` have built already.
test-slurm: install
	cargo test --no-run --test cluster
	tests/slurm/run.sh

test-hangs: install
	TANDEM_DISTURBANCES=50 cargo test --test cluster ranks_that_die

test-mpich: install
	tests/mpich.sh

build: install
	cargo build --release

lint:
	@.ci/install lint
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	shellcheck $(SCRIPTS)
	@if command -v hadolint >/dev/null; then hadolint Dockerfile; else echo 'SKIPPED: hadolint is not installed'; fi

doc: install
	RUSTDOCFLAGS='-D warnings' cargo doc --no-deps

deny:
	@.ci/deny

results: build
	benches/results.py --seeds 5 jobs/census_mmoe.yaml jobs/ml1m_mmoe.yaml jobs/taobao_mmoe.yaml
	benches/results.py --seeds 5 --retrieval --ranks 1

balancing: build
	benches/balancing.py --write docs/balancing.md
	benches/balancing.py --write docs/balancing.md --part logs

bench: install
	cargo bench --bench dense --bench throughput --bench table_memory --bench display

checkpoint: install
	cargo bench --bench checkpoint

growth: install
	cargo bench --bench growth

scaling: install
	benches/scaling.py --write docs/scaling.md

decode: build
	benches/decode.py

peer: build
	benches/peer.py --rounds 3
