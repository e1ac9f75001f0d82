//! Which commands and options does the command line have?
mod admin_key;
mod check;
mod database;
#[cfg(feature = "demo")]
mod demo;
mod healthcheck;
mod load;
mod process;
mod serve;
#[cfg(feature = "demo")]
mod traffic;

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
        /// Address and port to listen on
        #[arg(long, default_value = "127.0.0.1:8000", value_name = "ADDRESS:PORT")]
        bind: String,
    },
    /// Check the configuration and report every mistake
    Check,
    /// Write a copy of the database to FILE, even while a gateway is using it (SQLite)
    Backup {
        /// File to write; it must not exist yet
        file: PathBuf,
    },
    /// Replace the database with a copy made by `backup`, while no gateway is using it (SQLite)
    Restore {
        /// File to restore from
        file: PathBuf,
    },
    /// Work with the audit log
    Audit {
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// Check whether the gateway on this machine is alive, for containers; exits with 0 or 1
    Healthcheck,
    /// Print the OpenAPI document
    Openapi,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Check that no entry was changed, moved or removed, even while a gateway is using the database; exits with 0 or 1
    Verify {
        /// An entry that an earlier run printed and that must still be the same
        #[arg(long, value_name = "NUMBER:DIGEST")]
        expect: Option<String>,
    },
}

/// The definition of the command line, from which docs/reference/cli.md is generated.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Parses the command line and runs the command.
pub fn run() -> ExitCode {
    // The only provider in the tree, installed explicitly so that rustls does not have to choose.
    drop(rustls::crypto::ring::default_provider().install_default());
    let arguments = Arguments::parse();
    let file = arguments.config.as_deref();
    let done = match arguments.command.unwrap_or(Command::Serve) {
        Command::Serve => serve::run(file),
        #[cfg(feature = "demo")]
        Command::Demo { bind } => demo::run(bind),
        Command::Check => check::run(file),
        Command::Backup { file: to } => load(file).and_then(|config| database::back_up(&config.database, &to)),
        Command::Restore { file: from } => load(file).and_then(|config| database::restore(&config.database, &from)),
        Command::Audit { command: AuditCommand::Verify { expect } } => {
            load(file).and_then(|config| database::verify_audit(&config.database, expect.as_deref()))
        }
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
