//! `lanecast-conform`: raw arguments in, an exit code out.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;

#[tokio::main]
async fn main() -> ExitCode {
    match cli::run(cli::Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(complaint) => {
            eprintln!("lanecast-conform: {complaint}");
            ExitCode::from(2)
        }
    }
}
