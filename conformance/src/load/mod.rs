//! x
use crate::target::Target;
use crate::verdict::Outcome;
use std::sync::Arc;
/// x
#[derive(clap::Subcommand)]
pub enum Load {
    /// x
    Fanout,
}
/// x
pub async fn run(_target: Arc<Target>, _load: Load, _pid: Option<u32>) -> Outcome<String> {
    Ok(String::new())
}
