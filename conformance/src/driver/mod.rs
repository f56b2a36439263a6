//! Drivers of clients under test: starting them, telling them what to do, reading what they report.
//!
//! A driver is a process on standard input and output, or something that dials a WebSocket of the suite. To a case both are
//! a [`Driver`]: commands go out, reports are taken by what they are, in whatever order they came.

mod socket;
pub mod wire;

use std::collections::VecDeque;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use self::socket::Dialed;
pub use self::socket::Hub;
use self::wire::Form;
use crate::client::{Transport, WireLog, short};
use crate::verdict::{Outcome, Stop};

/// Reports that were read and not taken; beyond them the driver waits.
const REPORTS_MAX: usize = 65_536;
/// How long a driver may take until it is ready: a virtual machine, a browser.
const READY: Duration = Duration::from_secs(30);
/// Lines of its standard error that are kept.
const LINES_MAX: usize = 60;
/// How long a driver may take to end once its input did.
const END: Duration = Duration::from_secs(5);

/// How to get a driver.
#[derive(Clone)]
pub struct Launch {
    /// Program and arguments; `{driver_url}` becomes the address of the hub.
    pub command: Vec<String>,
    /// Where drivers dial; `None`: they speak on standard input and output.
    pub hub: Option<Arc<Hub>>,
}

enum Input {
    Process(ChildStdin),
    Dialed(Dialed),
}

/// A report and the form in which it came, or what is wrong with it.
type Said = Result<(Form, Value), String>;

/// A driver that is ready.
pub struct Driver {
    /// Its first report.
    pub ready: Value,
    input: Input,
    form: Form,
    child: Option<Child>,
    reports: mpsc::Receiver<Said>,
    backlog: VecDeque<Value>,
    tasks: Vec<JoinHandle<()>>,
    said: Arc<Mutex<VecDeque<String>>>,
    commands: u32,
    log: WireLog,
}

/// The kind of a report: the name of what it holds.
pub fn kind(report: &Value) -> &str {
    let fields = report.as_object().into_iter().flatten();
    fields.map(|(name, _)| name.as_str()).find(|name| *name != "command").unwrap_or("nothing")
}

impl Launch {
    /// Starts a driver and waits until it is ready.
    pub async fn start(&self) -> Outcome<Driver> {
        match &self.hub {
            None => self.start_process().await,
            Some(hub) => self.start_dialed(hub).await,
        }
    }

    fn spawn(&self, url: &str, pipes: bool) -> Outcome<Option<Child>> {
        let Some((program, arguments)) = self.command.split_first() else { return Ok(None) };
        let pipe = || if pipes { Stdio::piped() } else { Stdio::null() };
        let child = Command::new(program)
            .args(arguments.iter().map(|argument| argument.replace("{driver_url}", url)))
            .stdin(pipe())
            .stdout(pipe())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        child.map(Some).map_err(|error| Stop::Harness(format!("{program}: {error}")))
    }

    async fn start_process(&self) -> Outcome<Driver> {
        let mut child = self.spawn("", true)?.ok_or_else(|| Stop::harness("no command for a driver given"))?;
        let missing = || Stop::harness("a driver without pipes");
        let input = child.stdin.take().ok_or_else(missing)?;
        let output = child.stdout.take().ok_or_else(missing)?;
        let (said, listening) = listen_to(&mut child);
        let (say, reports) = mpsc::channel(REPORTS_MAX);
        let tasks = [Some(tokio::spawn(read_output(output, say))), listening];
        Driver::ready(Input::Process(input), Some(child), reports, tasks.into_iter().flatten().collect(), said).await
    }

    async fn start_dialed(&self, hub: &Arc<Hub>) -> Outcome<Driver> {
        let mut child = self.spawn(&hub.url(), false)?;
        let (said, listening) = match &mut child {
            Some(child) => listen_to(child),
            None => Default::default(),
        };
        let dialed = timeout(READY, hub.dialed()).await;
        let dialed = dialed.map_err(|_| Stop::harness(format!("no driver dialed {} in time", hub.url())))??;
        let (say, reports) = mpsc::channel(REPORTS_MAX);
        let (dialed, reading) = dialed.split(say);
        let tasks = [Some(reading), listening].into_iter().flatten().collect();
        Driver::ready(Input::Dialed(dialed), child, reports, tasks, said).await
    }
}

/// Keeps the last lines of what a driver says on standard error.
fn listen_to(child: &mut Child) -> (Arc<Mutex<VecDeque<String>>>, Option<JoinHandle<()>>) {
    let said = Arc::new(Mutex::new(VecDeque::new()));
    let listening = child.stderr.take().map(|stderr| tokio::spawn(keep_lines(stderr, said.clone())));
    (said, listening)
}

async fn keep_lines(stderr: ChildStderr, said: Arc<Mutex<VecDeque<String>>>) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() == LINES_MAX {
            said.pop_front();
        }
        said.push_back(line);
    }
}

fn read_report(form: Form, frame: &[u8]) -> Said {
    form.read_report(frame).map(|report| (form, report)).map_err(|error| error.0)
}

async fn read_output(output: ChildStdout, say: mpsc::Sender<Said>) {
    let mut output = BufReader::new(output);
    loop {
        let report = match wire::read_frame(&mut output).await {
            Ok(None) => return,
            Ok(Some(frame)) => read_report(Form::of(&frame), &frame),
            Err(error) => Err(error.0),
        };
        let broken = report.is_err();
        // Fails when nobody reads any more.
        if say.send(report).await.is_err() || broken {
            return;
        }
    }
}

impl Driver {
    async fn ready(
        input: Input,
        child: Option<Child>,
        reports: mpsc::Receiver<Said>,
        tasks: Vec<JoinHandle<()>>,
        said: Arc<Mutex<VecDeque<String>>>,
    ) -> Outcome<Self> {
        let mut driver = Self {
            ready: Value::Null,
            input,
            form: Form::Json,
            child,
            reports,
            backlog: VecDeque::new(),
            tasks,
            said,
            commands: 0,
            log: WireLog::default(),
        };
        let first = driver.next(Instant::now() + READY).await?;
        let first = first.ok_or_else(|| Stop::Harness(format!("no driver was ready in time{}", driver.words())))?;
        if kind(&first) != "ready" {
            return Err(Stop::Harness(format!("a driver begins with {} instead of ready", kind(&first))));
        }
        driver.ready = first["ready"].clone();
        Ok(driver)
    }

    /// What it said on standard error, for a complaint.
    fn words(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<&str> = said.iter().map(String::as_str).collect();
        if lines.is_empty() { String::new() } else { format!("; it said: {}", lines.join(" / ")) }
    }

    /// Writes what goes to and fro into this log from now on.
    pub fn log_to(&mut self, log: WireLog) {
        self.log = log;
    }

    /// Why it does not have something; `None`: it has it.
    pub fn lacks(&self, what: &str) -> Option<&str> {
        let lacks = self.ready["lacks"].as_array()?;
        lacks.iter().find(|lack| lack["what"] == what).map(|lack| lack["why"].as_str().unwrap_or(""))
    }

    /// The transports that it has.
    pub fn transports(&self) -> Vec<Transport> {
        let has = |transport: &Transport| {
            self.ready["transports"].as_array().is_some_and(|names| names.iter().any(|name| name == transport.name()))
        };
        Transport::ALL.into_iter().filter(has).collect()
    }

    /// Name and version of the SDK.
    pub fn name(&self) -> String {
        let word = |name: &str| self.ready[name].as_str().unwrap_or("?").to_owned();
        format!("{} {}", word("sdk"), word("version"))
    }

    /// Tells it to do something, as `{"publish": {…}}`, and returns the number of the command.
    pub async fn tell(&mut self, command: Value) -> Outcome<u32> {
        self.commands += 1;
        let mut command = command;
        command["id"] = json!(self.commands);
        self.log.add("driver", "→", &short(&command));
        let message = self.form.command(&command)?;
        let written = match &mut self.input {
            Input::Process(stdin) => wire::write_frame(stdin, &message).await.map_err(|error| error.to_string()),
            Input::Dialed(dialed) => dialed.send(self.form, message).await,
        };
        written.map_err(|error| Stop::fail(format!("the driver takes no commands: {error}{}", self.words())))?;
        Ok(self.commands)
    }

    async fn next(&mut self, deadline: Instant) -> Outcome<Option<Value>> {
        let Ok(report) = timeout_at(deadline, self.reports.recv()).await else { return Ok(None) };
        match report {
            Some(Ok((form, report))) => {
                self.form = form;
                self.log.add("driver", "←", &short(&report));
                Ok(Some(report))
            }
            Some(Err(broken)) => Err(Stop::fail(format!("the driver does not keep to its protocol: {broken}"))),
            None => Err(Stop::fail(format!("the driver ended{}", self.words()))),
        }
    }

    /// The first report that fits, among those that came and were not taken and those to come; `None`: none in time.
    pub async fn find(&mut self, within: Duration, mut fits: impl FnMut(&Value) -> bool) -> Outcome<Option<Value>> {
        if let Some(place) = self.backlog.iter().position(&mut fits) {
            return Ok(self.backlog.remove(place));
        }
        let deadline = Instant::now() + within;
        while let Some(report) = self.next(deadline).await? {
            if fits(&report) {
                return Ok(Some(report));
            }
            if self.backlog.len() == REPORTS_MAX {
                return Err(Stop::harness("too many reports that nobody asked for"));
            }
            self.backlog.push_back(report);
        }
        Ok(None)
    }

    /// Forgets the reports that came and were not taken.
    pub fn forget(&mut self) {
        self.backlog.clear();
        while self.reports.try_recv().is_ok() {}
    }

    /// Has it close its client. `Some`: it can serve another one.
    pub async fn emptied(mut self) -> Option<Self> {
        let id = self.tell(json!({"shutdown": {}})).await.ok()?;
        let closed = self.find(END, |report| report["command"] == id).await.ok()??;
        self.forget();
        // Without a client there was nothing to close.
        matches!(kind(&closed), "done" | "failed").then_some(self)
    }

    /// Kills it, as an operating system does.
    pub async fn kill(mut self) {
        if let Some(mut child) = self.child.take() {
            // Sends SIGKILL and waits; fails if it ended by itself.
            let _ = child.kill().await;
        }
    }

    /// Ends its input and waits until it ended.
    pub async fn end(mut self) {
        let child = self.child.take();
        drop(self);
        if let Some(mut child) = child
            && timeout(END, child.wait()).await.is_err()
        {
            let _ = child.kill().await;
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
