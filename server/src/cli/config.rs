//! `lanecast config`.

use std::path::PathBuf;

use clap::Subcommand;

use super::Failure;

#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Say all that is wrong with a file.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Print every option with its default, bounds and reason, as a file.
    Reference,
}

impl Config {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Check { file } => {
                crate::config::Config::load(&file)?;
                println!("{} is good", file.display());
            }
            Self::Reference => print!("{}", crate::config::reference()),
        }
        Ok(())
    }
}
