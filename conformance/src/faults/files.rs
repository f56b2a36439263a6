//! A round's histories as files: one JSON object a line.

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::history::{Histories, Run};

impl Histories {
    /// Writes a round.
    ///
    /// # Errors
    /// What the file system says, with the path.
    pub fn write(&self, directory: &Path) -> Result<(), String> {
        std::fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        write_lines(&directory.join("run.json"), std::slice::from_ref(&self.run))?;
        for (number, lines) in self.clients.iter().enumerate() {
            write_lines(&directory.join(format!("client-{number:02}.jsonl")), lines)?;
        }
        write_lines(&directory.join("log.jsonl"), &self.logs)
    }

    /// Reads a round.
    ///
    /// # Errors
    /// What is missing or malformed, with path and line.
    pub fn read(directory: &Path) -> Result<Self, String> {
        let run = read_lines(&directory.join("run.json"))?;
        let run: Run = run.into_iter().next().ok_or_else(|| format!("{}: run.json is empty", directory.display()))?;
        let mut clients = Vec::new();
        loop {
            let path = directory.join(format!("client-{:02}.jsonl", clients.len()));
            if !path.exists() {
                break;
            }
            clients.push(read_lines(&path)?);
        }
        Ok(Self { run, clients, logs: read_lines(&directory.join("log.jsonl"))? })
    }
}

fn write_lines<T: Serialize>(path: &Path, items: &[T]) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut file = BufWriter::new(File::create(path).map_err(failed)?);
    for item in items {
        serde_json::to_writer(&mut file, item).map_err(|error| failed(error.into()))?;
        file.write_all(b"\n").map_err(failed)?;
    }
    file.flush().map_err(failed)
}

fn read_lines<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Vec<T>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = BufReader::new(File::open(path).map_err(failed)?);
    let mut items = Vec::new();
    for (number, line) in file.lines().enumerate() {
        let line = line.map_err(failed)?;
        let item = serde_json::from_str(&line).map_err(|error| format!("{}:{}: {error}", path.display(), number + 1));
        items.push(item?);
    }
    Ok(items)
}
