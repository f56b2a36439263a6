//! Requirements of clients that no case reaches, with the reason.

/// A MUST of a client that has no case.
pub struct Unseen {
    /// The requirement.
    pub id: &'static str,
    /// Why neither a peer nor a driver can see whether it is kept.
    pub why: &'static str,
}

/// All of them.
pub const UNSEEN: &[Unseen] = &[];
