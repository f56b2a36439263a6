//! A Redis server of the round's own, and as much of its protocol as the faults need.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

use super::cluster::{free_port, signal};

/// How long a server may take until it answers, loading included.
const START: Duration = Duration::from_secs(30);
/// How long a command may take.
const COMMAND: Duration = Duration::from_secs(10);
/// Between two attempts.
const ATTEMPT: Duration = Duration::from_millis(50);
/// Bytes of a reply that are taken at most.
const REPLY_BYTES_MAX: usize = 64 << 20;

/// A Redis server.
pub struct Redis {
    program: String,
    directory: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl Redis {
    /// Starts one with an append-only file in this directory.
    pub async fn start(program: &str, directory: &Path) -> Result<Self, String> {
        std::fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        let (program, directory) = (program.to_owned(), directory.to_owned());
        let mut redis = Self { program, directory, port: free_port().await?, child: None };
        redis.start_again().await?;
        Ok(redis)
    }

    /// Starts it again with what its directory holds, and waits until it has loaded that.
    pub(super) async fn start_again(&mut self) -> Result<(), String> {
        let log = self.directory.join("redis.log");
        let child = Command::new(&self.program)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0"])
            .arg("--dir")
            .arg(&self.directory)
            .arg("--logfile")
            .arg(&log)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{}: {error}", self.program))?;
        self.child = Some(child);
        let deadline = Instant::now() + START;
        loop {
            if matches!(self.command(&["PING"]).await, Ok(Reply::Text(text)) if text == "PONG") {
                return Ok(());
            }
            if let Some(Ok(Some(status))) = self.child.as_mut().map(Child::try_wait) {
                return Err(format!("{} ended with {status}; see {}", self.program, log.display()));
            }
            if Instant::now() > deadline {
                return Err(format!("{} does not answer; see {}", self.program, log.display()));
            }
            tokio::time::sleep(ATTEMPT).await;
        }
    }

    /// Its address for nodes.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its process, while it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Sends it a signal by name.
    pub async fn signal(&self, name: &str) -> Result<(), String> {
        signal(self.pid().ok_or("Redis does not run")?, name).await
    }

    /// Ends it as a crash would.
    pub(super) async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already.
            let _ = child.kill().await;
        }
    }

    /// Copies its data to another directory. The append-only file is a prefix of itself at any time.
    pub(super) fn copy_data(&self, to: &Path) -> Result<(), String> {
        copy_directory(&self.directory.join("appendonlydir"), to)
    }

    /// Puts an older copy in place of its data.
    pub(super) fn restore_data(&self, from: &Path) -> Result<(), String> {
        let data = self.directory.join("appendonlydir");
        std::fs::remove_dir_all(&data).map_err(|error| format!("{}: {error}", data.display()))?;
        copy_directory(from, &data)
    }

    /// Lines of its log that hold this text.
    pub(super) fn logged(&self, text: &str) -> usize {
        let log = std::fs::read_to_string(self.directory.join("redis.log")).unwrap_or_default();
        log.lines().filter(|line| line.contains(text)).count()
    }

    /// A line of INFO.
    pub(super) async fn info(&self, section: &str, field: &str) -> Result<String, String> {
        let Reply::Text(text) = self.command(&["INFO", section]).await? else { return Err("INFO said nothing".into()) };
        let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value.map(|value| value.trim().to_owned()).ok_or_else(|| format!("INFO {section} has no {field}"))
    }

    /// Carries a command out on a connection of its own.
    pub async fn command(&self, words: &[&str]) -> Result<Reply, String> {
        let answer = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
            let mut request = format!("*{}\r\n", words.len());
            words.iter().for_each(|word| request.push_str(&format!("${}\r\n{word}\r\n", word.len())));
            stream.write_all(request.as_bytes()).await?;
            read_reply(&mut BufReader::new(stream)).await
        };
        match timeout(COMMAND, answer).await {
            Ok(Ok(Reply::Error(text))) => Err(format!("{words:?}: {text}")),
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(format!("{words:?}: {error}")),
            Err(_) => Err(format!("{words:?}: no answer in time")),
        }
    }
}

/// What Redis answered. No fault needs arrays.
#[derive(Debug)]
pub enum Reply {
    /// A simple or bulk string.
    Text(String),
    /// A number.
    Number(i64),
    /// A refusal.
    Error(String),
}

async fn read_reply(stream: &mut BufReader<TcpStream>) -> std::io::Result<Reply> {
    let bad = |line: &str| std::io::Error::other(format!("an unexpected reply {line:?}"));
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let line = line.trim_end();
    let (kind, rest) = line.split_at_checked(1).ok_or_else(|| bad(line))?;
    match kind {
        "+" => Ok(Reply::Text(rest.to_owned())),
        "-" => Ok(Reply::Error(rest.to_owned())),
        ":" => rest.parse().map(Reply::Number).map_err(|_| bad(line)),
        "$" => {
            let length = rest.parse().ok().filter(|length| *length <= REPLY_BYTES_MAX).ok_or_else(|| bad(line))?;
            let mut bytes = vec![0; length];
            stream.read_exact(&mut bytes).await?;
            Ok(Reply::Text(String::from_utf8_lossy(&bytes).into_owned()))
        }
        _ => Err(bad(line)),
    }
}

fn copy_directory(from: &Path, to: &Path) -> Result<(), String> {
    let failed = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    std::fs::create_dir_all(to).map_err(|error| failed(to, error))?;
    for entry in std::fs::read_dir(from).map_err(|error| failed(from, error))? {
        let entry = entry.map_err(|error| failed(from, error))?;
        std::fs::copy(entry.path(), to.join(entry.file_name())).map_err(|error| failed(&entry.path(), error))?;
    }
    Ok(())
}
