# An image with tandem and Open MPI, in two stages: what builds it does not stay.
#
#   docker build -t tandem .
#   docker run --rm -v "$PWD:/work" tandem train job.yaml
#
# On a cluster the MPI inside must speak to the launcher outside: Open MPI 4.1 here, PMIx in `srun --mpi=pmix`.
FROM rust:1.95-slim-bookworm AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libclang-dev libopenmpi-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /tandem
COPY . .
RUN cargo build --release --locked

FROM debian:12-slim
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends openmpi-bin openssh-client \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 tandem
COPY --from=build /tandem/target/release/tandem /usr/local/bin/tandem
USER 1000
WORKDIR /work
ENTRYPOINT ["tandem"]
