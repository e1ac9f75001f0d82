//! What can be said on the command line?
mod admin_key;
mod backup;
mod check;
#[cfg(feature = "demo")]
mod demo;
mod healthcheck;
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use tokio_util::sync::CancellationToken;

use crate::app::Reloader;
use crate::config::{self, Config, ConfigError};
use crate::http::openapi;
use crate::telemetry::LogFlusher;

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

fn load(file: Option<&std::path::Path>) -> Result<Config, String> {
    // A name or value that is no Unicode cannot be one of ours.
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    match config::load(file, environment) {
        Ok(document) => {
            for note in document.notes() {
                eprintln!("{note}");
            }
            Ok(document.value)
        }
        Err(ConfigError::Mistakes(mistakes)) => {
            let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
            let count = if lines.len() == 1 { "1 mistake".to_owned() } else { format!("{} mistakes", lines.len()) };
            Err(format!("{}\n{count} in the configuration", lines.join("\n")))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Writes the log while `work` goes on.
async fn logged<T>(log: &LogFlusher, work: impl Future<Output = T>) -> T {
    tokio::select! {
        done = work => done,
        never = log.run() => match never {},
    }
}

/// A token that is cancelled by SIGTERM or ctrl-c.
fn stop_signal() -> Result<CancellationToken, String> {
    use tokio::signal::unix::{SignalKind, signal};
    let token = CancellationToken::new();
    let listen = |kind| signal(kind).map_err(|error| format!("signals cannot be listened for: {error}"));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let stop = token.clone();
    actix_rt::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(token)
}

/// SIGHUP reads the configuration again, as `POST /admin/reload` does; what came of it is in the log.
fn reload_on_hangup(reloader: Reloader) -> Result<(), String> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup =
        signal(SignalKind::hangup()).map_err(|error| format!("signals cannot be listened for: {error}"))?;
    actix_rt::spawn(async move {
        while hangup.recv().await.is_some() {
            let _ = reloader.reload().await;
        }
    });
    Ok(())
}
