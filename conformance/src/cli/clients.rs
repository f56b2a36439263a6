//! The commands that test clients.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use lanecast_conform::client::Transport;
use lanecast_conform::clients::{self, Case, UNSEEN};
use lanecast_conform::driver::{Hub, Launch};
use lanecast_conform::scenarios;

use super::{TargetArguments, complaint, known, save, show, start};

/// How to get a driver of the client under test.
#[derive(Args)]
pub(super) struct DriverArguments {
    /// Waits for drivers that dial a WebSocket, on this port of the loopback address (0: any free one), instead of speaking
    /// with the command on standard input and output.
    #[arg(long)]
    listen: Option<u16>,
    /// Command that starts a driver; `{driver_url}` becomes the address to dial.
    #[arg(last = true)]
    driver: Vec<String>,
}

impl DriverArguments {
    pub(super) async fn launch(self) -> Result<Launch, String> {
        let hub = match self.listen {
            None if self.driver.is_empty() => return Err("give a command after --, or --listen".into()),
            None => None,
            Some(port) => {
                let hub = Hub::start(port).await.map_err(complaint)?;
                println!("drivers dial {}", hub.url());
                Some(Arc::new(hub))
            }
        };
        Ok(Launch { command: self.driver, hub })
    }
}

#[derive(Args)]
pub(super) struct ScenarioArguments {
    /// The file of scenarios.
    #[arg(long, default_value = "sdk-bindings/scenarios.yaml")]
    file: PathBuf,
    /// Command that starts a driver, for `sh -c`.
    #[arg(long)]
    driver: String,
    /// The drivers dial a WebSocket on this port of the loopback address (0: any free one), whose address takes the place of
    /// `{driver_url}`.
    #[arg(long)]
    listen: Option<u16>,
    /// Only scenarios whose id contains this; repeat for more.
    #[arg(long)]
    only: Vec<String>,
    /// Writes a report: junit=FILE, json=FILE or html=FILE.
    #[arg(long)]
    report: Vec<String>,
    #[command(flatten)]
    target: TargetArguments,
}

pub(super) async fn scenarios(arguments: ScenarioArguments) -> Result<bool, String> {
    let scenarios = scenarios::read(&arguments.file)?;
    // The shell makes room for the driver, so that killing the process kills the driver.
    let command = vec!["sh".to_owned(), "-c".to_owned(), format!("exec {}", arguments.driver)];
    let launch = DriverArguments { listen: arguments.listen, driver: command }.launch().await?;
    let transports = arguments.target.transport.clone();
    let started = start(arguments.target).await?;
    let which = (arguments.only.as_slice(), transports.as_slice());
    let report = scenarios::run(&started.target, &launch, &scenarios, which, |result| show(result, true)).await;
    started.stop().await;
    let report = report?;
    save(&report, &arguments.report)?;
    println!("{}\n{}", report.server, report.closing());
    Ok(report.is_good())
}

#[derive(Args)]
pub(super) struct ClientArguments {
    #[command(flatten)]
    driver: DriverArguments,
    /// Only cases whose id contains this; repeat for more.
    #[arg(long)]
    only: Vec<String>,
    /// What carries packets; several with commas. By default all that the client has.
    #[arg(long, value_enum, value_delimiter = ',')]
    transport: Vec<Transport>,
    /// Cases that run at once, each with a driver.
    #[arg(long, default_value_t = clients::JOBS)]
    jobs: usize,
    /// Writes a report: junit=FILE, json=FILE or html=FILE.
    #[arg(long)]
    report: Vec<String>,
    /// File with ids of cases that are known to fail, one a line; that one of them passes fails the run.
    #[arg(long)]
    known_failing: Option<PathBuf>,
    /// Prints each case as it ends.
    #[arg(long, short)]
    verbose: bool,
}

pub(super) async fn client(arguments: ClientArguments) -> Result<bool, String> {
    let options = clients::Options {
        only: arguments.only,
        transports: arguments.transport,
        jobs: arguments.jobs,
        known_failing: known(arguments.known_failing.as_deref())?,
    };
    let launch = arguments.driver.launch().await?;
    let cases = clients::all();
    let report = clients::run(launch, &cases, &options, |result| show(result, arguments.verbose)).await?;
    save(&report, &arguments.report)?;
    println!("{}\n{}", report.server, report.closing());
    Ok(report.is_good())
}

/// The cases for clients that cite a requirement.
pub(super) fn citing<'a>(cases: &'a [Case], id: &str) -> impl Iterator<Item = &'a Case> {
    cases.iter().filter(move |case| case.requirements.contains(&id))
}

/// Why a requirement of clients has no case.
pub(super) fn unseen(id: &str) -> Option<&'static str> {
    UNSEEN.iter().find(|unseen| unseen.id == id).map(|unseen| unseen.why)
}
