//! Processes that end with this one, and a little HTTP.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Looks until a test gives up: nothing here takes 15 s unless it hangs.
const LOOKS: u32 = 750;
/// How long a request, a line of the log or an event may take.
const WITHIN: Duration = Duration::from_secs(15);

/// Looks until there is an answer.
///
/// # Panics
/// If there is none in time.
pub(crate) fn until<T>(what: impl Fn() -> String, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..LOOKS {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    panic!("did not come about: {}", what());
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A command that is killed when this process lets go of its standard input, however it ends, and hands on the exit code.
fn bound(program: &str) -> Command {
    let script = "exec 3<&0; \"$@\" 3<&- & child=$!; { read _ <&3; kill -9 $child; } >/dev/null 2>&1 & watch=$!; \
                  wait $child; code=$?; kill $watch 2>/dev/null; exit $code";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", program]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A directory that is removed with this value.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("lanecast-test-{}-{serial}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file and says where it is.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // A leftover in the temporary directory is nobody's failure.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A Redis.
pub(crate) struct Redis {
    pub(crate) port: u16,
    pub(crate) directory: Directory,
    process: Option<Child>,
}

impl Redis {
    /// One that loses everything when it ends and is otherwise to Lanecast's liking.
    pub(crate) fn start() -> Self {
        Self::with(&["--appendonly", "yes", "--appendfsync", "no"])
    }

    /// One with these options.
    pub(crate) fn with(options: &[&str]) -> Self {
        let mut redis = Self { port: 0, directory: Directory::new(), process: None };
        // Another process may take the port first.
        for _ in 0..5 {
            redis.port = free_port();
            if redis.run(options) {
                return redis;
            }
        }
        panic!("no redis-server answers: install Debian's package redis-server");
    }

    /// One at this port, which is hopefully still free.
    pub(crate) fn at(port: u16, options: &[&str]) -> Self {
        let mut redis = Self { port, directory: Directory::new(), process: None };
        assert!(redis.run(options), "redis-server does not answer at {port}");
        redis
    }

    /// Runs it at its port with what its directory holds; says whether it answers, be it that it loads.
    pub(crate) fn run(&mut self, options: &[&str]) -> bool {
        let process = bound("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .arg("--dir")
            .arg(self.directory.path())
            .args(options)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let process = self.process.insert(process);
        for _ in 0..LOOKS {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return true;
            }
            if process.try_wait().unwrap().is_some() {
                return false;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        false
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.stdin.take());
            process.wait().unwrap();
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn url_of(&self, user: &str, password: &str) -> String {
        format!("redis://{user}:{password}@127.0.0.1:{}", self.port)
    }

    /// Carries out a command, whose words stand between blanks.
    pub(crate) fn command(&self, words: &str) -> redis::Value {
        let mut connection = redis::Client::open(self.url()).unwrap().get_connection_with_timeout(WITHIN).unwrap();
        let mut words = words.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        words.for_each(|word| {
            command.arg(word);
        });
        command.query(&mut connection).unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a process wrote to standard error.
#[derive(Clone, Default)]
struct Log(Arc<(Mutex<String>, Condvar)>);

impl Log {
    fn follow(&self, stderr: std::process::ChildStderr) {
        let log = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let (text, changed) = &*log.0;
                text.lock().unwrap().push_str(&format!("{line}\n"));
                changed.notify_all();
            }
        });
    }

    fn text(&self) -> String {
        self.0.0.lock().unwrap().clone()
    }

    fn wait(&self, words: &str) {
        let (text, changed) = &*self.0;
        let waiting = text.lock().unwrap();
        let (text, waited) = changed.wait_timeout_while(waiting, WITHIN, |text| !text.contains(words)).unwrap();
        assert!(!waited.timed_out(), "the node did not say {words:?}:\n{text}");
    }
}

/// A node for development on a Redis.
pub(crate) struct Node {
    process: Child,
    log: Log,
    address: String,
}

fn run_node(arguments: &[&str]) -> (Child, Log) {
    let arguments = ["serve", "--dev", "--listen", "127.0.0.1:0"].iter().chain(arguments);
    let mut process = bound(env!("CARGO_BIN_EXE_lanecast")).args(arguments).spawn().unwrap();
    let log = Log::default();
    log.follow(process.stderr.take().unwrap());
    (process, log)
}

impl Node {
    /// Starts one that serves.
    ///
    /// # Panics
    /// If it does not.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let (mut process, log) = run_node(arguments);
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.strip_prefix("listening on http://").and_then(|rest| rest.strip_suffix("/\n"));
        let Some(address) = address else { panic!("the node does not serve:\n{}", log.text()) };
        Self { address: address.to_owned(), process, log }
    }

    /// One that serves on this Redis.
    pub(crate) fn on(redis: &Redis) -> Self {
        let node = Self::start(&["--redis", &redis.url()]);
        node.becomes(200, "ready");
        node
    }

    /// Starts one that ends by itself; gives its exit code and what it said.
    pub(crate) fn refused(arguments: &[&str]) -> (Option<i32>, String) {
        let (mut process, log) = run_node(arguments);
        let ended =
            until(|| format!("the end of the node, which said\n{}", log.text()), || process.try_wait().unwrap());
        // The log's end may still be on its way.
        log.wait("lanecast: ");
        (ended.code(), log.text())
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Waits until it says so in its log.
    pub(crate) fn says(&self, words: &str) {
        self.log.wait(words);
    }

    /// What it said so far.
    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    /// What `/readyz` says.
    pub(crate) fn readiness(&self) -> (u16, String) {
        let answer = self.get("/readyz");
        (answer.status, answer.json["status"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until `/readyz` says so.
    pub(crate) fn becomes(&self, status: u16, word: &str) {
        let what =
            || format!("/readyz {status} {word}; it is {:?}, and the node said\n{}", self.readiness(), self.log());
        until(what, || (self.readiness() == (status, word.to_owned())).then_some(()));
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.request(&format!("GET {path} HTTP/1.1"), "", "")
    }

    /// Publishes a durable event with a text.
    pub(crate) fn publish(&self, room: &str, text: &str) -> Answer {
        let body = json!({ "envelope": { "type": "msg", "text": text } }).to_string();
        self.request(&format!("POST /v1/rooms/{room}/events HTTP/1.1"), "", &body)
    }

    /// The texts in a room's log.
    pub(crate) fn history(&self, room: &str) -> Vec<String> {
        let answer = self.get(&format!("/v1/rooms/{room}/events?limit=1000&direction=forward"));
        assert_eq!(answer.status, 200, "{:?}", answer.json);
        texts(&answer.json)
    }

    /// Reads a room from its beginning, by server-sent events.
    pub(crate) fn subscribe(&self, room: &str) -> Events {
        let request = format!("GET /v1/rooms/{room}/events?from=beginning HTTP/1.1");
        let mut lines = self.send(&request, "Accept: text/event-stream\r\n", "");
        let (status, _) = read_head(&mut lines);
        assert_eq!(status, 200);
        Events { lines }
    }

    fn send(&self, request: &str, headers: &str, body: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(WITHIN)).unwrap();
        let head = format!(
            "{request}\r\nHost: localhost\r\nAuthorization: Bearer dev-key\r\n{headers}Content-Length: {}\r\n\
             Connection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        BufReader::new(stream)
    }

    fn request(&self, request: &str, headers: &str, body: &str) -> Answer {
        let mut reader = self.send(request, headers, body);
        let (status, retry_after) = read_head(&mut reader);
        let mut body = String::new();
        reader.read_to_string(&mut body).unwrap();
        Answer { status, retry_after, json: serde_json::from_str(&body).unwrap_or(Value::Null) }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// An answer over HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Seconds; 0: not said.
    pub(crate) retry_after: u32,
    pub(crate) json: Value,
}

/// Status and Retry-After.
fn read_head(reader: &mut BufReader<TcpStream>) -> (u16, u32) {
    let mut lines = reader.lines().map(|line| line.expect("the node answers"));
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let mut retry_after = 0;
    for line in lines.take_while(|line| !line.is_empty()) {
        if let Some((name, value)) = line.split_once(": ")
            && name.eq_ignore_ascii_case("retry-after")
        {
            retry_after = value.parse().unwrap();
        }
    }
    (status, retry_after)
}

/// A stream of server-sent events.
pub(crate) struct Events {
    lines: BufReader<TcpStream>,
}

impl Events {
    /// Name and data of the next one.
    pub(crate) fn next(&mut self) -> (String, Value) {
        let mut name = String::new();
        loop {
            let mut line = String::new();
            let read = self.lines.read_line(&mut line);
            assert!(matches!(read, Ok(1..)), "the stream ended: {read:?}");
            if let Some(value) = line.trim_end().strip_prefix("event: ") {
                value.clone_into(&mut name);
            } else if let Some(value) = line.trim_end().strip_prefix("data: ") {
                return (name, serde_json::from_str(value).unwrap());
            }
        }
    }

    /// The texts of the next so many events. A gap in between fails the test; another epoch without one does not.
    pub(crate) fn texts(&mut self, count: usize) -> Vec<String> {
        let mut found = Vec::new();
        while found.len() < count {
            let (name, data) = self.next();
            match &*name {
                "event" => found.extend(texts(&data)),
                "subscribed" => {}
                _ => panic!("{name}: {data}"),
            }
        }
        found
    }
}

/// The texts in some JSON, wherever they stand.
fn texts(json: &Value) -> Vec<String> {
    match json {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, value)| match value {
                Value::String(text) if name == "text" => vec![text.clone()],
                value => texts(value),
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}
