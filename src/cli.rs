//! What can be said on the command line?
mod admin_key;
mod backup;
mod check;
#[cfg(feature = "demo")]
mod demo;
mod healthcheck;
mod load;
mod process;
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use self::load::load;
use crate::http::openapi;

/// One fair, metered, OpenAI-compatible service over several Ollama nodes.
#[derive(Debug, Parser)]
#[command(name = "ollama-gateway", version, disable_help_subcommand = true)]
struct Arguments {
    /// The configuration file [default: gateway.yaml, if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve (the default)
    Serve,
    /// Serve three simulated nodes and a throw-away database, to try things out
    #[cfg(feature = "demo")]
    Demo {
        /// Where to listen
        #[arg(long, default_value = "127.0.0.1:8000", value_name = "ADDRESS:PORT")]
        bind: String,
    },
    /// Check the configuration and name every mistake
    Check,
    /// Write a copy of the database to FILE, also while a gateway runs on it (SQLite)
    Backup {
        /// Where to; it must not exist yet
        file: PathBuf,
    },
    /// Put a copy that `backup` made in the place of the database, while no gateway runs on it (SQLite)
    Restore {
        /// The copy
        file: PathBuf,
    },
    /// Ask a running gateway whether it lives, for containers; exits with 0 or 1
    Healthcheck,
    /// Print the OpenAPI document
    Openapi,
}

/// The command line, described: docs/reference/cli.md is made from it.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Reads the command line and does what it says.
pub fn run() -> ExitCode {
    // The one provider in the tree, named so that nothing has to guess.
    drop(rustls::crypto::ring::default_provider().install_default());
    let arguments = Arguments::parse();
    let file = arguments.config.as_deref();
    let done = match arguments.command.unwrap_or(Command::Serve) {
        Command::Serve => serve::run(file),
        #[cfg(feature = "demo")]
        Command::Demo { bind } => demo::run(bind),
        Command::Check => check::run(file),
        Command::Backup { file: to } => load(file).and_then(|config| backup::back_up(&config.database, &to)),
        Command::Restore { file: from } => load(file).and_then(|config| backup::restore(&config.database, &from)),
        Command::Healthcheck => healthcheck::run(file),
        Command::Openapi => print_openapi(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn print_openapi() -> Result<(), String> {
    println!("{}", openapi::document().to_pretty_json().map_err(|error| error.to_string())?);
    Ok(())
}
