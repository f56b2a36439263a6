//! The Lanecast conformance suite.
//!
//! It promises to find out whether a server or a client keeps the MUSTs of `protocol/spec`, to say which one it breaks and
//! what went over the wire, and to do so with nothing in common with any of them: own types from the schema, own framing,
//! own JSON. It refuses to guess: what it cannot try is *unsupported* or *skipped*, never passed.
//!
//! In reading order: [`spec`] the requirements; [`schema`] the codec; [`client`] the raw client and the ledger of laws
//! that it checks on every frame; [`case`] the step language; [`cases`] the cases; [`target`], [`control`] the server
//! under test; [`runner`], [`verdict`], [`report`]; [`reference`] a server that keeps the rules, and mutants of it that
//! break one each; [`fuzz`]; [`load`]; [`faults`]. For clients: [`peer`] the scripted server; [`driver`] how clients are told
//! what to do; [`clients`] the cases, the model client and its mutants; [`scenarios`].

mod carrier;
pub mod case;
pub mod cases;
pub mod certificate;
pub mod client;
pub mod clients;
pub mod control;
pub mod driver;
pub mod faults;
pub mod fuzz;
pub mod load;
pub mod peer;
pub mod reference;
pub mod report;
pub mod runner;
pub mod scenarios;
pub mod schema;
pub mod spec;
pub mod target;
pub mod verdict;
