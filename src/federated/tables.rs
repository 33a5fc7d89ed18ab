//! Embedding tables that are shared: a row becomes the mean of those of the clients that have it. A client gets no rows of ids that it
//! has not seen, but who exchanges rows tells the others which ids it has.

use super::client::Client;
use super::exchange::Exchange;
use super::placement::hosted;
use crate::embedding::TableRows;
use crate::error::Result;
use std::collections::HashMap;

/// Averages the rows of every table over the clients, in client order, by their weights. Collective.
pub fn average(exchange: &Exchange, clients: &mut [Client], weights: &[f64]) -> Result<()> {
    let tables = clients.first().map_or(0, |client| client.shared().trainable.embeddings.table_names().count());
    (0..tables).try_for_each(|table| average_table(exchange, clients, table, weights))
}

fn average_table(exchange: &Exchange, clients: &mut [Client], table: usize, weights: &[f64]) -> Result<()> {
    let export = |client: &Client| {
        let embeddings = &client.shared().trainable.embeddings;
        embeddings.export(table, embeddings.owned_buckets())
    };
    let mine: Vec<TableRows> = clients.iter().map(export).collect();
    let counts: Vec<u64> = mine.iter().map(|rows| rows.ids.len() as u64).collect();
    let ids: Vec<u64> = mine.iter().flat_map(|rows| rows.ids.iter().copied()).collect();
    let values: Vec<f32> = mine.iter().flat_map(|rows| rows.values.iter().copied()).collect();
    let all = exchange.rows(&counts, &ids, &values)?;
    let dim = clients.first().map_or(1, |client| client.shared().trainable.embeddings.dim(table));
    // Σ w, then Σ w · row; only of ids that a client of this rank has.
    let mut sums: HashMap<u64, Vec<f64>> = ids.iter().map(|&id| (id, vec![0.0; dim + 1])).collect();
    for (rank, rows) in all.iter().enumerate() {
        let owners = hosted(weights.len(), rank, all.len()).zip(&rows.counts);
        let owners = owners.flat_map(|(client, &count)| (0..count).map(move |_| client));
        for ((client, id), row) in owners.zip(&rows.ids).zip(rows.values.chunks_exact(dim)) {
            if let Some(sum) = sums.get_mut(id) {
                sum[0] += weights[client];
                sum[1..].iter_mut().zip(row).for_each(|(sum, &v)| *sum += weights[client] * f64::from(v));
            }
        }
    }
    for (client, rows) in clients.iter_mut().zip(&mine) {
        let mean = |id: &u64| {
            let sum = &sums[id];
            sum[1..].iter().map(|v| (v / sum[0]) as f32).collect::<Vec<f32>>()
        };
        let values: Vec<f32> = rows.ids.iter().flat_map(mean).collect();
        client.shared_mut().trainable.embeddings.overwrite(table, &rows.ids, &values);
    }
    Ok(())
}
