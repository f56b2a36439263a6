//! `lanecast why` and the node that it asks.

use std::process::Command;

use crate::support::Node;

fn why(node: &Node, arguments: &[&str]) -> (bool, String) {
    let api = format!("http://{}", node.address());
    let output =
        Command::new(env!("CARGO_BIN_EXE_lanecast")).arg("why").args(arguments).args(["--api", &api]).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn where_the_time_of_an_event_went_is_told_part_by_part() {
    let node = Node::start(&[]);
    let mut events = node.subscribe("r");
    assert_eq!(node.publish("r", "hello").status, 200);
    assert_eq!(events.texts(1), ["hello"]);
    let (found, told) = why(&node, &["r", "1"]);
    assert!(found, "{told}");
    assert!(told.starts_with("normal 1 of r (epoch "), "{told}");
    let [head, row] = &told.lines().skip(1).collect::<Vec<_>>()[..] else { panic!("one subscriber: {told}") };
    let columns: Vec<&str> = head.split_whitespace().collect();
    assert_eq!(columns, ["CONNECTION", "USER", "PUBLISHER", "ENGINE", "QUEUE", "WIRE"]);
    assert!(row.matches(" ms").count() == 3 && row.ends_with("to the socket"), "{told}");
    let (found, told) = why(&node, &["r", "1", "--lane", "urgent"]);
    assert!(!found && told.contains("remembers no such event"), "{told}");
    let (found, told) = why(&node, &["r", "1", "--json"]);
    assert!(found && told.contains("\"engineMs\""), "{told}");
}
