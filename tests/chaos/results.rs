//! Where the numbers of a long run are kept.
use serde_json::Value;

/// Prints a result, and keeps it where `CHAOS_RESULTS` says.
pub fn keep(name: &str, result: &Value) {
    println!("{name}: {result}");
    if let Ok(folder) = std::env::var("CHAOS_RESULTS") {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(format!("{name}.json"));
        std::fs::write(path, serde_json::to_string_pretty(result).unwrap() + "\n").unwrap();
    }
}
