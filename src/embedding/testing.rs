//! Ranks as threads joined by channels, for the tests of this module. A rank that panics closes its
//! channels, so the others fail too instead of waiting.

use crate::comm::{Communicator, Traffic};
use crate::error::{Error, Result};
use std::sync::mpsc::{Receiver, Sender, channel};

struct Peer {
    rank: usize,
    to: Vec<Sender<Vec<u8>>>,
    from: Vec<Receiver<Vec<u8>>>,
}

/// Runs `body` on `size` ranks; returns what each returned, by rank.
pub fn run_ranks<T: Send>(size: usize, body: impl Fn(&dyn Communicator) -> T + Sync) -> Vec<T> {
    let mut peers: Vec<Peer> = (0..size).map(|rank| Peer { rank, to: Vec::new(), from: Vec::new() }).collect();
    for sender in 0..size {
        for receiver in 0..size {
            let (to, from) = channel();
            peers[sender].to.push(to);
            peers[receiver].from.push(from);
        }
    }
    std::thread::scope(|scope| {
        let body = &body;
        let ranks: Vec<_> = peers.into_iter().map(|peer| scope.spawn(move || body(&peer))).collect();
        ranks.into_iter().map(|rank| rank.join().expect("a rank panicked")).collect()
    })
}

impl Peer {
    fn exchange<'a>(&self, messages: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Vec<u8>>> {
        let gone = || Error::comm("a rank is gone");
        for (to, message) in self.to.iter().zip(messages) {
            to.send(message.to_vec()).map_err(|_| gone())?;
        }
        self.from.iter().map(|from| from.recv().map_err(|_| gone())).collect()
    }
}

impl Communicator for Peer {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.to.len()
    }

    fn exchange_counts(&self, send: &[u64]) -> Result<Vec<u64>> {
        let received = self.exchange(send.iter().map(bytemuck::bytes_of))?;
        Ok(received.iter().map(|bytes| bytemuck::pod_read_unaligned(bytes)).collect())
    }

    fn all_to_all_bytes(&self, mut send: &[u8], counts: &[usize], recv: &mut [u8], from: &[usize]) -> Result<()> {
        let parts = counts.iter().map(|&n| send.split_off(..n).expect("counts fit"));
        let received = self.exchange(parts)?;
        assert!(received.iter().map(Vec::len).eq(from.iter().copied()), "sender and receiver disagree");
        recv.copy_from_slice(&received.concat());
        Ok(())
    }

    fn all_gather_bytes(&self, send: &[u8], recv: &mut [u8], _: &[usize]) -> Result<()> {
        recv.copy_from_slice(&self.exchange((0..self.size()).map(|_| send))?.concat());
        Ok(())
    }

    fn barrier(&self) -> Result<()> {
        self.exchange((0..self.size()).map(|_| &[][..])).map(|_| ())
    }

    fn abort(&self, code: i32, message: &str) -> ! {
        panic!("abort {code}: {message}")
    }

    fn traffic(&self) -> Traffic {
        Traffic::default()
    }

    fn backend(&self) -> String {
        "channels".to_string()
    }
}
