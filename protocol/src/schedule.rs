//! Which lane leaves next: strict at the top, shares below, and nobody starves.
//!
//! - *Control* leaves first.
//! - *Urgent* leaves second, while its bucket has the tokens for it. The bucket needs no clock: it counts bytes that leave,
//!   which is goodput. Each byte that leaves, of whatever lane, earns half a token; each urgent byte that leaves while a
//!   shared lane waits costs one. So urgent has half of what passes, whatever the speed, and with nothing else waiting it
//!   is free.
//! - *Normal*, *signal* and *bulk* share the rest in deficit round robin: 4, 2 and 1 by bytes.
//!
//! A lane that waits but may not leave now, since its stream is full or its receiver gives no credit, neither earns nor
//! loses its place. One that is [held](Lanes::hold) until the transport's window has room counts as waiting for the
//! bucket: else urgent, which no window holds, would be free for as long as it fills the pipe, and would fill it for ever.
//!
//! [`Scheduler::pick`] looks at sizes alone and knows nothing of records and time.

use crate::lane::{Lane, Lanes};

/// Tokens that the bucket of lane urgent holds: bytes that leave in a burst before shared lanes have their half.
pub const URGENT_BURST_BYTES: usize = 64 * 1024;
/// Lanes that share what control and urgent leave, with their weights.
const SHARED: [(Lane, usize); 3] = [(Lane::Normal, 4), (Lane::Signal, 2), (Lane::Bulk, 1)];
/// Bytes that a lane of weight 1 earns in a round. Small, so that a turn of lane normal is a few events and not a
/// message of the transport; a record may be larger, and waits for rounds.
const QUANTUM_BYTES: usize = 512;

/// Bytes of the next record of each lane, by [`Lane::index`]; 0: nothing waits.
pub type Heads = [usize; 5];

/// Decides which lane leaves next.
#[derive(Clone, Debug)]
pub struct Scheduler {
    /// Half tokens of lane urgent. Below zero after a record that is larger than the bucket.
    half_tokens: i64,
    /// What each shared lane may still send in this round, bytes.
    deficits: [usize; SHARED.len()],
    /// Whose turn it is, and whether it has earned for this round.
    turn: usize,
    has_earned: bool,
}

impl Default for Scheduler {
    fn default() -> Self {
        Self { half_tokens: Self::CAPACITY, deficits: [0; SHARED.len()], turn: 0, has_earned: false }
    }
}

impl Scheduler {
    const CAPACITY: i64 = 2 * URGENT_BURST_BYTES as i64;

    /// The lane of these whose next record leaves now; it counts as having left. `None` if nothing may leave, or only
    /// urgent, whose bucket is empty, while others are held.
    pub fn pick(&mut self, heads: &Heads, lanes: Lanes) -> Option<Lane> {
        let head = |lane: Lane| heads[lane.index()];
        let may = |lane: Lane| head(lane) > 0 && lanes.contains(lane);
        for (deficit, (lane, _)) in self.deficits.iter_mut().zip(SHARED) {
            if head(lane) == 0 {
                // Nothing is saved up: what a lane did not need went to the others.
                *deficit = 0;
            }
        }
        let contended = SHARED.iter().any(|&(lane, _)| may(lane) || head(lane) > 0 && lanes.is_held(lane));
        let lane = if may(Lane::Control) {
            Lane::Control
        } else if may(Lane::Urgent) && (!contended || self.affords(head(Lane::Urgent))) {
            Lane::Urgent
        } else {
            self.share(heads, lanes)?
        };
        let bytes = head(lane) as i64;
        if lane == Lane::Urgent && contended {
            self.half_tokens -= 2 * bytes;
        }
        self.half_tokens = Self::CAPACITY.min(self.half_tokens + bytes);
        Some(lane)
    }

    /// Whether urgent may send so many bytes. A record that no bucket holds needs a full one, and leaves a debt.
    fn affords(&self, bytes: usize) -> bool {
        self.half_tokens >= Self::CAPACITY.min(2 * bytes as i64)
    }

    /// The shared lane whose turn it is.
    fn share(&mut self, heads: &Heads, lanes: Lanes) -> Option<Lane> {
        let head = |at: usize| heads[SHARED[at].0.index()];
        let may = |at: usize| head(at) > 0 && lanes.contains(SHARED[at].0);
        // Rounds in which nobody could send are skipped at once: records may be many rounds large.
        let needed = |at: usize| head(at).saturating_sub(self.deficits[at]).div_ceil(earning(at));
        let rounds = (0..SHARED.len()).filter(|&at| may(at)).map(needed).min()?;
        for at in (0..SHARED.len()).filter(|&at| may(at)) {
            self.deficits[at] += rounds.saturating_sub(1) * earning(at);
        }
        loop {
            let at = self.turn;
            if may(at) {
                if !self.has_earned {
                    self.deficits[at] += earning(at);
                    self.has_earned = true;
                }
                if head(at) <= self.deficits[at] {
                    self.deficits[at] -= head(at);
                    return Some(SHARED[at].0);
                }
            }
            self.turn = (at + 1) % SHARED.len();
            self.has_earned = false;
        }
    }
}

/// What a shared lane earns in a round, bytes.
const fn earning(at: usize) -> usize {
    SHARED[at].1 * QUANTUM_BYTES
}

#[cfg(test)]
mod tests;
