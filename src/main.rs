//! The `ollama-gateway` command.

fn main() -> std::process::ExitCode {
    ollama_gateway::cli::run()
}
