//! The one id message of a step to each owner, for all tables.
//!
//! ```text
//! u64 words:  n_0 … n_T-1 | ids of table 0 | … | ids of table T-1 | counts of table 0 | … | counts of table T-1
//!                                                                    two u32 a word, in training only
//! ```

use super::exchange::TableRoute;
use crate::error::{Error, Result};

/// The ids of one table in a message, and how often each occurs at the sender.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TableIds<'a> {
    pub ids: &'a [u64],
    /// Empty in evaluation.
    pub counts: &'a [u32],
}

/// Appends the message to `peer`.
pub fn encode(routes: &[TableRoute], peer: usize, train: bool, out: &mut Vec<u64>) {
    out.extend(routes.iter().map(|route| route.sent(peer).len() as u64));
    for route in routes {
        out.extend_from_slice(&route.ids[route.sent(peer)]);
    }
    if train {
        for route in routes {
            let pairs = route.counts[route.sent(peer)].chunks(2);
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
        let routes = [
            TableRoute::for_test(&[10, 11, 12], &[1, 2, 3], &[0, 3, 3]),
            TableRoute::for_test(&[], &[], &[0, 0, 0]),
            TableRoute::for_test(&[u64::MAX, 7], &[u32::MAX, 4], &[0, 1, 2]),
        ];
        for train in [false, true] {
            for peer in 0..2 {
                let mut message = Vec::new();
                encode(&routes, peer, train, &mut message);
                let parts = decode(&message, 3, train).unwrap();
                for (route, part) in routes.iter().zip(parts) {
                    assert_eq!(part.ids, &route.ids[route.sent(peer)]);
                    assert_eq!(part.counts, if train { &route.counts[route.sent(peer)] } else { &[] });
                }
                assert!(decode(&message[..message.len() - 1], 3, train).is_err());
                message.push(0);
                assert!(decode(&message, 3, train).is_err());
            }
        }
        assert!(decode(&[u64::MAX], 1, true).is_err());
    }
}
