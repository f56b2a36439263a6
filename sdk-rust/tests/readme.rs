//! The README's code is the examples' code.
//!
//! A block that follows `<!-- examples/x.rs: name -->` must equal the region of that example between
//! `// README begins: name` and `// README ends`. With LANECAST_WRITE_README set the blocks are written instead.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

/// The region's lines, without the indentation that all of them share.
fn region(example: &str, name: &str) -> String {
    let begin = format!("// README begins: {name}");
    let lines = example.lines().skip_while(|line| line.trim() != begin).skip(1);
    let lines: Vec<_> = lines.take_while(|line| line.trim() != "// README ends").collect();
    assert!(!lines.is_empty(), "no region {name}");
    let indents = lines.iter().filter(|line| !line.trim().is_empty()).map(|line| line.len() - line.trim_start().len());
    let indent = indents.min().unwrap_or(0);
    lines.iter().map(|line| format!("{}\n", line.get(indent..).unwrap_or_default())).collect()
}

/// The README with every marked block replaced by its region; returns also how many there are.
fn filled(root: &Path, readme: &str) -> (String, usize) {
    let (mut out, mut count, mut lines) = (String::new(), 0, readme.lines());
    while let Some(line) = lines.next() {
        out += &format!("{line}\n");
        let Some(mark) = line.strip_prefix("<!-- ").and_then(|line| line.strip_suffix(" -->")) else {
            assert!(line != "```rust", "a block without its example");
            continue;
        };
        let (file, name) = mark.split_once(": ").unwrap();
        assert_eq!(lines.next(), Some("```rust"));
        lines.by_ref().take_while(|line| *line != "```").for_each(drop);
        out += &format!("```rust\n{}```\n", region(&fs::read_to_string(root.join(file)).unwrap(), name));
        count += 1;
    }
    (out, count)
}

#[test]
fn the_readmes_blocks_are_the_examples() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (file, blocks_min) in [("README.md", 4), ("../README.md", 1)] {
        let path = root.join(file);
        let readme = fs::read_to_string(&path).unwrap();
        let (expected, count) = filled(root, &readme);
        assert!(count >= blocks_min, "{file} has {count} blocks");
        if std::env::var_os("LANECAST_WRITE_README").is_some() {
            fs::write(&path, expected).unwrap();
            continue;
        }
        assert!(readme == expected, "{file} is stale: run this test with LANECAST_WRITE_README=1");
    }
}
