//! The `ollama-gateway` command.

/// A request allocates and frees hundreds of small values, on several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    ollama_gateway::cli::run()
}
