//! What does the gateway cost compared with nginx, and with the database of a long life behind it? See bench/README.md.
mod fill;
mod http;
mod load;
mod upstream;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures the gateway.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fill a database as years of use would
    Fill(fill::Amounts),
    /// Answer as a node would
    Upstream {
        /// `ADDRESS:PORT`
        listen: String,
    },
    /// Ask as clients would
    Load(load::Load),
    /// Print the secret of a key of such a database
    Secret {
        /// The number of the key
        number: u64,
        /// Users of the database
        #[arg(default_value_t = 100_000)]
        users: u64,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Fill(amounts) => {
            actix_rt::System::new().block_on(fill::fill(&amounts)).map_err(|error| error.to_string())
        }
        Command::Upstream { listen } => {
            actix_rt::System::new().block_on(upstream::serve(&listen)).map_err(|error| error.to_string())
        }
        Command::Load(load) => {
            println!("{}", actix_rt::System::new().block_on(load::run(load)));
            Ok(())
        }
        Command::Secret { number, users } => {
            println!("{}", fill::secret(number, users));
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
