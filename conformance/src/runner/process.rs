//! The server as a child process.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::{TcpListener, UdpSocket};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::client::Trust;
use crate::client::socket::reach;
use crate::target::Endpoint;
use crate::verdict::{Outcome, Stop};

/// How long a server may take until it listens.
const START: Duration = Duration::from_secs(30);
/// Between two attempts to connect to a server that starts.
const ATTEMPT: Duration = Duration::from_millis(50);

/// A server that the suite starts, ends and starts again with the same arguments.
pub struct Process {
    command: Vec<String>,
    url: Option<String>,
    trust: Trust,
    lines: bool,
    child: Option<Child>,
    stdin: Option<ChildStdin>,
    answers: watch::Receiver<Value>,
    reader: Option<tokio::task::JoinHandle<()>>,
    endpoint: Option<Endpoint>,
    commands: u64,
}

impl Process {
    /// A process that is not started yet. `{port}` in the arguments becomes a free TCP port and `{quic_port}` a free
    /// UDP port, the same at each start. `url`: where it will listen; else the first line of its output that holds
    /// `http://` or `https://` says so.
    ///
    /// `trust`: whom to trust under TLS.
    pub async fn new(mut command: Vec<String>, url: Option<String>, trust: Trust, lines: bool) -> Outcome<Self> {
        let mut url = url;
        if command.iter().any(|argument| argument.contains("{port}")) {
            let probe = TcpListener::bind("127.0.0.1:0").await.map_err(Stop::harness)?;
            let port = probe.local_addr().map_err(Stop::harness)?.port().to_string();
            command.iter_mut().for_each(|argument| *argument = argument.replace("{port}", &port));
            url.get_or_insert_with(|| format!("http://127.0.0.1:{port}"));
        }
        if command.iter().any(|argument| argument.contains("{quic_port}")) {
            let probe = UdpSocket::bind("127.0.0.1:0").await.map_err(Stop::harness)?;
            let port = probe.local_addr().map_err(Stop::harness)?.port().to_string();
            command.iter_mut().for_each(|argument| *argument = argument.replace("{quic_port}", &port));
        }
        let answers = watch::channel(Value::Null).1;
        Ok(Self {
            command,
            url,
            trust,
            lines,
            child: None,
            stdin: None,
            answers,
            reader: None,
            endpoint: None,
            commands: 0,
        })
    }

    /// Starts the process and waits until it listens.
    pub async fn start(&mut self) -> Outcome {
        let (program, arguments) = self.command.split_first().ok_or_else(|| Stop::harness("no command given"))?;
        let stdin = if self.lines { Stdio::piped() } else { Stdio::null() };
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Stop::Harness(format!("{program}: {error}")))?;
        self.stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or_else(|| Stop::harness("no standard output"))?;
        self.child = Some(child);
        let mut lines = BufReader::new(stdout).lines();
        let url = match &self.url {
            Some(url) => url.clone(),
            None => timeout(START, said_url(&mut lines))
                .await
                .map_err(|_| Stop::harness("no line with http:// or https:// in time"))??,
        };
        let (say, answers) = watch::channel(Value::Null);
        self.answers = answers;
        self.reader = Some(tokio::spawn(drain_output(lines, say)));
        let endpoint = Endpoint::parse(&url, &self.trust).map_err(Stop::Harness)?;
        self.wait_listening(&endpoint).await?;
        self.endpoint = Some(endpoint);
        Ok(())
    }

    /// Where it listens, once started.
    pub fn endpoint(&self) -> Option<Endpoint> {
        self.endpoint.clone()
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    async fn wait_listening(&mut self, endpoint: &Endpoint) -> Outcome {
        let deadline = Instant::now() + START;
        loop {
            if reach(endpoint, None).await.is_ok() {
                return Ok(());
            }
            if let Some(child) = &mut self.child
                && let Ok(Some(status)) = child.try_wait()
            {
                return Err(Stop::Harness(format!("the server ended before it listened: {status}")));
            }
            if Instant::now() > deadline {
                return Err(Stop::Harness(format!("the server does not listen on {}", endpoint.authority())));
            }
            tokio::time::sleep(ATTEMPT).await;
        }
    }

    /// Kills it and starts it again.
    pub async fn restart(&mut self) -> Outcome {
        self.stop().await;
        self.start().await
    }

    /// Kills it.
    pub async fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill().await;
        }
        if let Some(reader) = self.reader.take() {
            reader.abort();
        }
    }

    /// Sends a signal by name.
    pub async fn signal(&self, name: &str) -> Outcome {
        let id = self.id().ok_or_else(|| Stop::harness("the server does not run"))?;
        let status = Command::new("kill").arg(format!("-{name}")).arg(id.to_string()).status().await;
        match status {
            Ok(status) if status.success() => Ok(()),
            other => Err(Stop::Harness(format!("kill -{name} {id}: {other:?}"))),
        }
    }

    /// Waits until it ended by itself.
    pub async fn wait_exit(&mut self, within: Duration) -> Outcome {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        match timeout(within, child.wait()).await {
            Ok(_) => Ok(()),
            Err(_) => {
                let _ = child.kill().await;
                Err(Stop::fail(format!("the server did not end within {} s of SIGTERM", within.as_secs())))
            }
        }
    }

    /// Writes a command line to its standard input and waits for the answer line.
    pub async fn command(&mut self, verb: &str, room: &str, within: Duration) -> Outcome<Value> {
        self.commands += 1;
        let id = self.commands;
        let stdin = self.stdin.as_mut().ok_or_else(|| Stop::harness("the server takes no commands"))?;
        let line = format!("{}\n", json!({"id": id, "do": verb, "room": room}));
        stdin.write_all(line.as_bytes()).await.map_err(Stop::harness)?;
        stdin.flush().await.map_err(Stop::harness)?;
        let answer = timeout(within, self.answers.wait_for(|answer| answer["id"] == id)).await;
        match answer {
            Ok(Ok(answer)) => Ok(answer.clone()),
            _ => Err(Stop::Harness(format!("control: no answer to {verb}"))),
        }
    }
}

async fn said_url(lines: &mut Lines<BufReader<ChildStdout>>) -> Outcome<String> {
    while let Some(line) = lines.next_line().await.map_err(Stop::harness)? {
        if let Some(start) = ["https://", "http://", "wss://", "ws://"].iter().find_map(|scheme| line.find(scheme)) {
            let url = line[start..].split([' ', '"', ',', ')']).next().unwrap_or("");
            return Ok(url.trim_end_matches(['.', '/']).to_owned());
        }
    }
    Err(Stop::harness("the server ended before it printed a line with http:// or https://"))
}

/// Keeps the pipe empty for the life of the process and hands control answers on.
async fn drain_output(mut lines: Lines<BufReader<ChildStdout>>, say: watch::Sender<Value>) {
    while let Ok(Some(line)) = lines.next_line().await {
        if let Ok(answer @ Value::Object(_)) = serde_json::from_str::<Value>(&line)
            && answer.get("ok").or_else(|| answer.get("unsupported")).is_some()
        {
            // Fails only when the process is being replaced and nobody waits.
            let _ = say.send(answer);
        }
    }
}
