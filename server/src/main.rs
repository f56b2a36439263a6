//! The binary `lanecast`.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    lanecast_server::cli::Cli::parse().run()
}
