//! The command line.

mod clients;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use lanecast_conform::case::Case;
use lanecast_conform::certificate::Pair;
use lanecast_conform::client::{Encoding, Pins, Transport, Trust};
use lanecast_conform::clients::model::{self, ClientMutant};
use lanecast_conform::control::Control;
use lanecast_conform::faults::redis::Redis;
use lanecast_conform::reference::{Mutant, Reference};
use lanecast_conform::runner::process::Process;
use lanecast_conform::runner::{self, CaseResult, Options, Report};
use lanecast_conform::target::{Endpoint, FIXTURE_API_KEYS, FIXTURE_SECRET, Target, Tokens};
use lanecast_conform::verdict::{Stop, Verdict};
use lanecast_conform::{cases, faults, fuzz, load, report, spec};
use tokio::sync::Mutex;

/// Finds out whether a server keeps the rules of the Lanecast protocol.
#[derive(Parser)]
#[command(name = "lanecast-conform", version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the cases for servers.
    Server(ServerArguments),
    /// Runs the smallest profile only.
    Smoke(ServerArguments),
    /// Runs the cases for clients, with a driver of the client (driver.md).
    Client(clients::ClientArguments),
    /// Runs the scenarios of a file with a driver of a client, against a real server.
    Scenarios(clients::ScenarioArguments),
    /// Lists the cases.
    List {
        /// Part of an id.
        pattern: Option<String>,
        /// Lists requirements instead, with the cases that cite them.
        #[arg(long)]
        requirements: bool,
    },
    /// Prints a requirement and the cases that cite it.
    Explain {
        /// Id, such as LC-RES-003.
        id: String,
    },
    /// Sends mutated packets to a server while a healthy client beside them must notice nothing.
    Fuzz {
        #[command(flatten)]
        target: TargetArguments,
        /// Packets to send.
        #[arg(long, default_value_t = 100_000)]
        count: u64,
        /// Replays a run.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Puts load on a server and prints figures for people.
    #[command(subcommand)]
    Load(LoadCommand),
    /// Breaks a cluster in known ways and finds what is lost, doubled, reordered or wrongly promised.
    Faults(faults::Faults),
    /// The model client as a driver on standard input and output, or a mutant of it.
    Model {
        /// Break this rule.
        #[arg(long)]
        mutant: Option<ClientMutant>,
    },
    /// Runs the reference server, or a mutant of it.
    Reference {
        /// TCP port of the loopback address; 0: any free one.
        #[arg(long, default_value_t = 0)]
        port: u16,
        /// UDP port of the loopback address; 0: any free one.
        #[arg(long, default_value_t = 0)]
        quic_port: u16,
        /// Break this rule.
        #[arg(long)]
        mutant: Option<Mutant>,
    },
}

#[derive(Subcommand)]
enum LoadCommand {
    /// One room, many subscribers: latency at a rate, or deliveries at saturation.
    Fanout {
        #[command(flatten)]
        target: TargetArguments,
        #[command(flatten)]
        plan: load::Fanout,
    },
    /// Memory of idle connections.
    Idle {
        #[command(flatten)]
        target: TargetArguments,
        #[command(flatten)]
        plan: load::Idle,
    },
    /// Connect rate.
    Storm {
        #[command(flatten)]
        target: TargetArguments,
        #[command(flatten)]
        plan: load::Storm,
    },
    /// Whether everything arrives as it must, from one client to another.
    Mixed {
        #[command(flatten)]
        target: TargetArguments,
        #[command(flatten)]
        plan: load::Mixed,
    },
    /// Latency beside handshakes that never finish.
    Siege {
        #[command(flatten)]
        target: TargetArguments,
        #[command(flatten)]
        plan: load::Siege,
    },
    /// What others notice of one subscriber that stops reading.
    Stall {
        #[command(flatten)]
        target: TargetArguments,
        #[command(flatten)]
        plan: load::Stall,
    },
    /// Latency of every lane beside saturating bulk, over a link.
    Lanes {
        #[command(flatten)]
        target: TargetArguments,
        #[command(flatten)]
        plan: load::Lanes,
    },
}

#[derive(Args)]
struct TargetArguments {
    /// Address of the server: ws://host:port/path or http://host:port, or wss:// and https://.
    #[arg(long)]
    url: Option<String>,
    /// Address of raw QUIC, quic://host:port, if the server does not say it in /.well-known/lanecast.
    #[arg(long)]
    quic_url: Option<String>,
    /// PEM file of the authorities to trust in place of the system's.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// Takes every certificate.
    #[arg(long)]
    insecure: bool,
    /// Shell command that prints a token; `{user}`, `{rights}` (JSON) and `{expires_s}` are replaced.
    #[arg(long)]
    token_cmd: Option<String>,
    /// Secret (HS256) with which to sign tokens of the JWT profile.
    #[arg(long)]
    jwt_secret: Option<String>,
    /// Use `dev:<user>` tokens. The default if nothing else is said.
    #[arg(long)]
    dev_tokens: bool,
    /// API key; repeat for a second one, and for one with rights in `conform.limited.**` only.
    #[arg(long)]
    api_key: Vec<String>,
    /// Address of the HTTP API, if it is not that of `--url`.
    #[arg(long)]
    api_url: Option<String>,
    /// The server has the rooms, secret and API keys of the fixture (control.md).
    #[arg(long)]
    fixture: bool,
    /// Control of the server: `stdio` (with a command), an http:// address, or `none`.
    #[arg(long)]
    control: Option<String>,
    /// Redis server to start for the command, whose `{redis}` becomes its address: then a restart empties it.
    #[arg(long)]
    redis_server: Option<String>,
    /// What carries packets; several with commas. By default the suite takes all that the server says it has, and the
    /// other commands WebSocket.
    #[arg(long, value_enum, value_delimiter = ',')]
    transport: Vec<Transport>,
    /// How long to wait for what should come at once.
    #[arg(long, default_value_t = 5_000)]
    patience_ms: u64,
    /// Command that starts the server. `{port}` becomes a free TCP port, `{quic_port}` a free UDP port, `{cert}` and
    /// `{key}` PEM files with a certificate for loopback that is made for the run and trusted, `{filled:FILE}` a copy of
    /// the file in which `{cert}` and `{key}` are filled in.
    #[arg(last = true)]
    server: Vec<String>,
}

#[derive(Args)]
struct ServerArguments {
    #[command(flatten)]
    target: TargetArguments,
    /// Only cases whose id contains this; repeat for more.
    #[arg(long)]
    only: Vec<String>,
    /// Encodings to use.
    #[arg(long, value_enum, default_value_t = Encodings::Both)]
    encoding: Encodings,
    /// Cases that run at once.
    #[arg(long, default_value_t = runner::JOBS)]
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

#[derive(Clone, Copy, ValueEnum)]
enum Encodings {
    Binary,
    Json,
    Both,
}

/// Carries a command out. `Ok(false)`: the server did not pass.
pub(crate) async fn run(arguments: Arguments) -> Result<bool, String> {
    match arguments.command {
        Command::Server(arguments) => server(arguments, cases::all()?).await,
        Command::Smoke(arguments) => server(arguments, cases::smoke(cases::all()?)).await,
        Command::Client(arguments) => clients::client(arguments).await,
        Command::Scenarios(arguments) => clients::scenarios(arguments).await,
        Command::List { pattern, requirements } => list(pattern.as_deref().unwrap_or(""), requirements),
        Command::Explain { id } => explain(&id),
        Command::Fuzz { target, count, seed } => {
            let transport = one_transport(&target)?;
            let started = start(target).await?;
            let outcome = fuzz::run(started.target.clone(), transport, count, seed).await;
            started.stop().await;
            println!("{}", outcome.map_err(complaint)?);
            Ok(true)
        }
        Command::Load(command) => {
            let (target, load) = match command {
                LoadCommand::Fanout { target, plan } => (target, load::Load::Fanout(plan)),
                LoadCommand::Idle { target, plan } => (target, load::Load::Idle(plan)),
                LoadCommand::Storm { target, plan } => (target, load::Load::Storm(plan)),
                LoadCommand::Mixed { target, plan } => (target, load::Load::Mixed(plan)),
                LoadCommand::Siege { target, plan } => (target, load::Load::Siege(plan)),
                LoadCommand::Stall { target, plan } => (target, load::Load::Stall(plan)),
                LoadCommand::Lanes { target, plan } => (target, load::Load::Lanes(plan)),
            };
            let transport = one_transport(&target)?;
            let started = start(target).await?;
            let pid = started.pid().await;
            let outcome = load::run(started.target.clone(), transport, load, pid).await;
            started.stop().await;
            println!("{}", outcome.map_err(complaint)?);
            Ok(true)
        }
        Command::Model { mutant } => model::drive(mutant).await.map(|()| true),
        Command::Faults(plan) => faults::run(plan).await,
        Command::Reference { port, quic_port, mutant } => {
            let reference = Reference::start(port, quic_port, FIXTURE_SECRET, mutant).await.map_err(complaint)?;
            println!("listening on http://{}", reference.endpoint().authority());
            println!("listening on quic://127.0.0.1:{}", reference.quic_port());
            let signal = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
            signal.map_err(|error| error.to_string())?.recv().await;
            tokio::time::sleep(reference.drain()).await;
            Ok(true)
        }
    }
}

fn complaint(stop: Stop) -> String {
    match stop {
        Stop::Fail(text, _) | Stop::Unsupported(text) | Stop::Skipped(text) | Stop::Harness(text) => text,
    }
}

/// The transport of a command that runs over one.
fn one_transport(arguments: &TargetArguments) -> Result<Transport, String> {
    match arguments.transport.as_slice() {
        [] => Ok(Transport::Websocket),
        [transport] => Ok(*transport),
        _ => Err("give one --transport".into()),
    }
}

/// A server that is ready to be tested.
struct Started {
    target: Arc<Target>,
    process: Option<Arc<Mutex<Process>>>,
    _directories: Vec<Directory>,
}

/// What was made for the run, gone with it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("lanecast-conform-{:016x}", rand::random::<u64>())))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Started {
    async fn pid(&self) -> Option<u32> {
        match &self.process {
            Some(process) => process.lock().await.id(),
            None => None,
        }
    }

    async fn stop(self) {
        if let Some(process) = self.process {
            process.lock().await.stop().await;
        }
    }
}

/// Makes the certificate that a command asks for and fills in where its files are.
fn certify(command: &mut [String]) -> Result<Option<(Pins, Directory)>, String> {
    if !command.iter().any(|argument| ["{cert}", "{key}", "{filled:"].iter().any(|name| argument.contains(name))) {
        return Ok(None);
    }
    let (directory, pair) = (Directory::new(), Pair::new()?);
    let (certificate, key) = pair.write(&directory.0)?;
    let fill =
        |text: &str| text.replace("{cert}", &certificate.to_string_lossy()).replace("{key}", &key.to_string_lossy());
    for argument in command {
        if let Some((before, rest)) = argument.split_once("{filled:")
            && let Some((file, after)) = rest.split_once('}')
        {
            let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
            let copy = directory.0.join("filled");
            std::fs::write(&copy, fill(&text)).map_err(|error| format!("{}: {error}", copy.display()))?;
            *argument = format!("{before}{}{after}", copy.display());
        }
        *argument = fill(argument);
    }
    let pins = Pins::default();
    pins.set(vec![pair.hash()]);
    Ok(Some((pins, directory)))
}

async fn start(arguments: TargetArguments) -> Result<Started, String> {
    let stdio = arguments.control.as_deref() == Some("stdio");
    let (mut command, mut store, mut directories) = (arguments.server, None, Vec::new());
    let mut fill = |from: &str, to: &str| {
        command.iter_mut().for_each(|argument| *argument = argument.replace(from, to));
    };
    if let Some(program) = &arguments.redis_server {
        let directory = Directory::new();
        let redis = Redis::start(program, &directory.0).await?;
        fill("{redis}", &redis.url());
        store = Some(Arc::new(redis));
        directories.push(directory);
    }
    let mut trust = match (&arguments.ca, arguments.insecure) {
        (_, true) => Some(Trust::Everyone),
        (Some(file), false) => Some(Trust::file(file)?),
        (None, false) => None,
    };
    if let Some((pins, directory)) = certify(&mut command)? {
        trust.get_or_insert(Trust::Hashes(pins));
        directories.push(directory);
    }
    let tcp_trust = trust.clone().unwrap_or_default();
    let process = if command.is_empty() {
        None
    } else {
        let mut process =
            Process::new(command, arguments.url.clone(), tcp_trust.clone(), stdio).await.map_err(complaint)?;
        process.start().await.map_err(complaint)?;
        Some(process)
    };
    let said = process.as_ref().and_then(Process::endpoint);
    let endpoint = match (&arguments.url, said) {
        (Some(url), _) => Endpoint::parse(url, &tcp_trust)?,
        (None, Some(endpoint)) => endpoint,
        (None, None) => return Err("give --url, or a command after --".into()),
    };
    let tokens = match (arguments.jwt_secret, arguments.token_cmd) {
        (Some(secret), _) => Tokens::Jwt(secret),
        (None, Some(command)) => Tokens::Command(command),
        (None, None) if arguments.fixture && !arguments.dev_tokens => Tokens::Jwt(FIXTURE_SECRET.into()),
        (None, None) => Tokens::Dev,
    };
    let process = process.map(|process| Arc::new(Mutex::new(process)));
    let control = match (arguments.control.as_deref(), &process, &store) {
        (Some("none"), ..) | (None, None, _) => Control::None,
        (Some("stdio"), Some(process), _) => Control::Lines(process.clone()),
        (Some("stdio"), None, _) => return Err("--control stdio needs a command after --".into()),
        (Some(url), ..) => Control::Http(Endpoint::parse(url, &tcp_trust)?),
        (None, Some(process), Some(redis)) => Control::Stored(process.clone(), redis.clone()),
        (None, Some(process), None) => Control::Process(process.clone()),
    };
    let mut api_keys = arguments.api_key;
    if api_keys.is_empty() && arguments.fixture {
        api_keys = FIXTURE_API_KEYS.map(str::to_owned).to_vec();
    }
    let mut target = Target::new(endpoint, tokens);
    target.api = arguments.api_url.as_deref().map(|url| Endpoint::parse(url, &tcp_trust)).transpose()?;
    target.api_keys = api_keys;
    target.fixture = arguments.fixture;
    target.control = control;
    target.patience = Duration::from_millis(arguments.patience_ms);
    target.trust = trust;
    target.quic = arguments.quic_url.as_deref().map(Endpoint::parse_quic).transpose()?;
    target.discover().await.map_err(complaint)?;
    Ok(Started { target: Arc::new(target), process, _directories: directories })
}

async fn server(arguments: ServerArguments, cases: Vec<Case>) -> Result<bool, String> {
    let known_failing = known(arguments.known_failing.as_deref())?;
    let options = Options {
        only: arguments.only,
        transports: arguments.target.transport.clone(),
        encodings: match arguments.encoding {
            Encodings::Binary => vec![Encoding::Binary],
            Encodings::Json => vec![Encoding::Json],
            Encodings::Both => vec![Encoding::Binary, Encoding::Json],
        },
        jobs: arguments.jobs,
        known_failing,
    };
    let started = start(arguments.target).await?;
    let report = runner::run(started.target.clone(), &cases, &options, |result| show(result, arguments.verbose)).await;
    started.stop().await;
    save(&report, &arguments.report)?;
    println!("{}", report.closing());
    Ok(report.is_good())
}

/// The ids in a file of known failures.
fn known(file: Option<&Path>) -> Result<Vec<String>, String> {
    let Some(file) = file else { return Ok(Vec::new()) };
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or("").trim().to_owned());
    Ok(lines.filter(|line| !line.is_empty()).collect())
}

/// Writes the reports that were asked for.
fn save(report: &Report, wanted: &[String]) -> Result<(), String> {
    for text in wanted {
        let (form, file) = report::parse(text)?;
        std::fs::write(&file, report::render(report, form)).map_err(|error| format!("{file}: {error}"))?;
    }
    Ok(())
}

fn show(result: &CaseResult, verbose: bool) {
    let loud = result.is_bad() || verbose;
    if !loud {
        return;
    }
    let known = if result.known { " (known to fail)" } else { "" };
    println!("{:<13} {} ({} ms){known}", result.verdict.name(), result.id, result.ms);
    if !result.text.is_empty() {
        println!("    {}", result.text);
    }
    if matches!(result.verdict, Verdict::Fail | Verdict::Harness) && !result.known {
        for line in result.wire.lines() {
            println!("    | {line}");
        }
    }
}

fn list(pattern: &str, requirements: bool) -> Result<bool, String> {
    let (cases, of_clients) = (cases::all()?, lanecast_conform::clients::all());
    if requirements {
        for requirement in spec::REQUIREMENTS.iter().filter(|requirement| requirement.id.contains(pattern)) {
            let citing =
                cases::citing(&cases, requirement.id).count() + clients::citing(&of_clients, requirement.id).count();
            let served = if requirement.served { "" } else { " unserved" };
            println!("{:<12} {:<6} {:<6} {citing} cases{served}", requirement.id, requirement.level, requirement.role);
        }
        return Ok(true);
    }
    let of_servers = cases.iter().map(|case| (case.id.as_str(), case.title.as_str()));
    for (id, title) in of_servers.chain(of_clients.iter().map(|case| (case.id.as_str(), case.title))) {
        if id.contains(pattern) {
            println!("{id:<60} {title}");
        }
    }
    Ok(true)
}

fn explain(id: &str) -> Result<bool, String> {
    let requirement = spec::find(id).ok_or_else(|| format!("the spec has no {id}"))?;
    let served = if requirement.served { "" } else { ", unserved" };
    println!(
        "{} ({}, {}, {}{served})  protocol/spec/{}:{}\n\n{}\n",
        requirement.id,
        requirement.level,
        requirement.role,
        requirement.transports,
        requirement.file,
        requirement.line,
        requirement.text
    );
    let cases = cases::all()?;
    for case in cases::citing(&cases, id) {
        println!("{}\n    {}", case.id, case.title);
    }
    let of_clients = lanecast_conform::clients::all();
    for case in clients::citing(&of_clients, id) {
        println!("{}\n    {}", case.id, case.title);
    }
    if let Some(why) = clients::unseen(id) {
        println!("no case for clients: {why}");
    }
    let mutants = Mutant::ALL.iter().filter(|mutant| mutant.rules().contains(&id));
    let of_clients =
        ClientMutant::ALL.iter().filter(|mutant| mutant.rule() == id).filter_map(ValueEnum::to_possible_value);
    for mutant in mutants.filter_map(ValueEnum::to_possible_value).chain(of_clients) {
        println!("mutant {}", mutant.get_name());
    }
    Ok(true)
}
