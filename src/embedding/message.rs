//! The one id message of a step to each owner, for all tables.
//!
//! ```text
//! u64 words:  n_0 … n_T-1 | ids of table 0 | … | ids of table T-1 | counts of table 0 | … | counts of table T-1
//!                                                                    two u32 a word, in training only
//! ```

use crate::error::{Error, Result};

/// The ids of one table in a message, and how often each occurs at the sender.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TableIds<'a> {
    pub ids: &'a [u64],
    /// Empty in evaluation.
    pub counts: &'a [u32],
}

/// Appends the message that carries `tables`, with their counts in training.
pub fn encode<'a>(tables: impl Iterator<Item = TableIds<'a>> + Clone, train: bool, out: &mut Vec<u64>) {
    out.extend(tables.clone().map(|table| table.ids.len() as u64));
    for table in tables.clone() {
        out.extend_from_slice(table.ids);
    }
    if train {
        for table in tables {
            let pairs = table.counts.chunks(2);
            out.extend(pairs.map(|pair| -> u64 { bytemuck::cast([pair[0], pair.get(1).copied().unwrap_or(0)]) }));
        }
    }
}

/// Takes a message apart.
pub fn decode(message: &[u64], tables: usize, train: bool) -> Result<Vec<TableIds<'_>>> {
    let wrong = || Error::comm(format!("an id message of {} words does not fit its own header", message.len()));
    let (sizes, mut rest) = message.split_at_checked(tables).ok_or_else(wrong)?;
    let mut take = |words: u64| -> Result<&[u64]> {
        let (head, tail) = usize::try_from(words).ok().and_then(|n| rest.split_at_checked(n)).ok_or_else(wrong)?;
        rest = tail;
        Ok(head)
    };
    let mut parts = Vec::with_capacity(tables);
    for &n in sizes {
        parts.push(TableIds { ids: take(n)?, counts: &[] });
    }
    if train {
        for (part, &n) in parts.iter_mut().zip(sizes) {
            part.counts = &bytemuck::cast_slice(take(n.div_ceil(2))?)[..n as usize];
        }
    }
    if rest.is_empty() { Ok(parts) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_apart_as_they_were_put_together() {
        let tables: [(&[u64], &[u32]); 3] = [(&[10, 11, 12], &[1, 2, 3]), (&[], &[]), (&[u64::MAX, 7], &[u32::MAX, 4])];
        let tables = tables.map(|(ids, counts)| TableIds { ids, counts });
        for train in [false, true] {
            for sent in [&tables[..], &tables[1..2], &tables[2..]] {
                let mut message = Vec::new();
                encode(sent.iter().copied(), train, &mut message);
                for (table, part) in sent.iter().zip(decode(&message, sent.len(), train).unwrap()) {
                    assert_eq!(part.ids, table.ids);
                    assert_eq!(part.counts, if train { table.counts } else { &[] });
                }
                assert!(decode(&message[..message.len() - 1], sent.len(), train).is_err());
                message.push(0);
                assert!(decode(&message, sent.len(), train).is_err());
            }
        }
        assert!(decode(&[u64::MAX], 1, true).is_err());
    }
}
