//! Embedding tables, sharded by bucket over the ranks.
