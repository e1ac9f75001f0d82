//! Is the configuration valid? Prints every mistake at once, and never a secret.
use std::path::Path;

use super::load::load;
use crate::config::DEFAULT_FILE;

pub(super) fn run(file: Option<&Path>) -> Result<(), String> {
    let config = load(file)?;
    let path = file.unwrap_or(Path::new(DEFAULT_FILE));
    let source =
        if path.exists() { path.display().to_string() } else { "no file; defaults and environment".to_owned() };
    println!("The configuration is good ({source}).");
    println!("  listens on  {}", config.server.bind);
    let kind = if config.database.sqlite_path().is_some() { "SQLite" } else { "Postgres" };
    println!("  database    {kind}");
    for node in &config.nodes {
        println!("  node        {} at {}, {}", node.name, node.url, node.slots_in_words());
    }
    Ok(())
}
