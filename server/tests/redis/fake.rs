//! Something that speaks Redis's protocol and says of itself what a test wants.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

/// Answers `INFO` with this text and everything else with a refusal, on a port of its own, for as long as the test runs.
pub(crate) fn start(info: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || serve(stream, info));
        }
    });
    url
}

/// Ends with the connection.
fn serve(mut stream: TcpStream, info: &str) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let words: usize = line(&mut reader)?.strip_prefix('*')?.parse().ok()?;
        let mut name = String::new();
        for word in 0..words {
            let length: usize = line(&mut reader)?.strip_prefix('$')?.parse().ok()?;
            let mut bytes = vec![0; length + 2];
            reader.read_exact(&mut bytes).ok()?;
            if word == 0 {
                bytes.truncate(length);
                name = String::from_utf8(bytes).ok()?.to_uppercase();
            }
        }
        let answer = match &*name {
            "INFO" => format!("${}\r\n{info}\r\n", info.len()),
            _ => format!("-ERR unknown command '{name}'\r\n"),
        };
        stream.write_all(answer.as_bytes()).ok()?;
    }
}

fn line(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    Some(line.trim_end().to_owned())
}
