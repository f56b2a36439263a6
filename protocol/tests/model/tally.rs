//! What happened in the runs: a model in which nothing goes wrong proves nothing.

/// What happened, over many seeds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub stored: u64,
    pub duplicates: u64,
    pub out_of_order: u64,
    pub acknowledged: u64,
    pub given_up: u64,
    pub rollbacks: u64,
    pub lost: u64,
    pub epochs: u64,
    pub unknown_epochs: u64,
    pub resumed: u64,
    pub recovered: u64,
    pub cuts: u64,
    pub node_restarts: u64,
    pub crashes: u64,
    pub trimmed_gaps: u64,
    pub expired_gaps: u64,
    pub filtered_gaps: u64,
    pub revoked_in_flight: u64,
    pub copies: u64,
    pub holes: u64,
    pub skipped_answers: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        for ((_, mine), (_, theirs)) in self.rows_mut().into_iter().zip(other.rows()) {
            *mine += theirs;
        }
        self.holes += other.holes;
        self.skipped_answers += other.skipped_answers;
    }

    pub fn rows(mut self) -> Vec<(&'static str, u64)> {
        self.rows_mut().into_iter().map(|(name, count)| (name, *count)).collect()
    }

    /// What must happen often enough.
    fn rows_mut(&mut self) -> [(&'static str, &mut u64); 19] {
        [
            ("stored", &mut self.stored),
            ("duplicates", &mut self.duplicates),
            ("out of order", &mut self.out_of_order),
            ("acknowledged", &mut self.acknowledged),
            ("given up", &mut self.given_up),
            ("rollbacks", &mut self.rollbacks),
            ("lost", &mut self.lost),
            ("epochs", &mut self.epochs),
            ("unknown epochs", &mut self.unknown_epochs),
            ("resumed", &mut self.resumed),
            ("recovered", &mut self.recovered),
            ("cuts", &mut self.cuts),
            ("node restarts", &mut self.node_restarts),
            ("crashes", &mut self.crashes),
            ("trimmed gaps", &mut self.trimmed_gaps),
            ("expired gaps", &mut self.expired_gaps),
            ("filtered gaps", &mut self.filtered_gaps),
            ("revoked in flight", &mut self.revoked_in_flight),
            ("copies", &mut self.copies),
        ]
    }
}
