//! The command line. `lanecast` without arguments is `lanecast serve --dev`.

mod api;
mod api_key;
mod config;
mod dial;
mod doctor;
mod lan;
mod link;
mod operate;
mod publish;
mod revoke;
mod serve;
mod subscribe;
mod token;
mod why;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use serve::Serve;

/// Realtime messaging with priority lanes.
#[derive(Debug, Parser)]
#[command(name = "lanecast", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node.
    Serve(Serve),
    /// Publish an event to a room.
    Publish(publish::Publish),
    /// Print what a room gets.
    Subscribe(subscribe::Subscribe),
    /// Mint a user token, signed with the node's secret or a private key.
    Token(token::Token),
    /// Make an API key for a service, and say what the configuration needs to know of it.
    ApiKey(api_key::MakeApiKey),
    /// List the nodes that are alive, with their load.
    Nodes(operate::Nodes),
    /// List connections of clients.
    Connections(operate::Connections),
    /// Close the connections of a user, on all nodes.
    Disconnect(operate::Disconnect),
    /// Revoke the tokens of a user or device, or one token, on all nodes.
    Revoke(revoke::Revoke),
    /// List the revocations that hold.
    Revocations(revoke::Revocations),
    /// Say where the time of an event went: publisher, engine, node and wire.
    Why(why::Why),
    /// End the subscription of a user to a room, on all nodes.
    Unsubscribe(operate::Unsubscribe),
    /// Send the connections of a node to the others; it takes no new ones until it is started again.
    Drain(operate::Drain),
    /// Try to reach a node by each transport, and say what is wrong and what to do.
    Doctor(doctor::Doctor),
    /// Check a configuration file, or print the reference of all options.
    #[command(subcommand)]
    Config(config::Config),
}

/// Why a command ended without success: a sentence for standard error.
#[derive(Debug)]
pub struct Failure(String);

impl<E: std::fmt::Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

impl Cli {
    /// Runs the command to its end.
    pub fn run(self) -> ExitCode {
        let done = match self.command.unwrap_or_else(|| Command::Serve(Serve::development())) {
            Command::Serve(serve) => serve.run(),
            Command::Publish(publish) => publish.run(),
            Command::Subscribe(subscribe) => subscribe.run(),
            Command::Token(token) => token.run(),
            Command::ApiKey(make) => make.run(),
            Command::Nodes(nodes) => nodes.run(),
            Command::Connections(connections) => connections.run(),
            Command::Disconnect(disconnect) => disconnect.run(),
            Command::Revoke(revoke) => revoke.run(),
            Command::Revocations(revocations) => revocations.run(),
            Command::Why(why) => why.run(),
            Command::Unsubscribe(unsubscribe) => unsubscribe.run(),
            Command::Drain(drain) => drain.run(),
            Command::Doctor(doctor) => doctor.run(),
            Command::Config(config) => config.run(),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(Failure(sentence)) => {
                eprintln!("lanecast: {sentence}");
                ExitCode::FAILURE
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_arguments_are_a_development_node() {
        let cli = Cli::try_parse_from(["lanecast"]).unwrap();
        assert!(cli.command.is_none());
        assert!(Serve::development().config().unwrap().dev);
    }
}
