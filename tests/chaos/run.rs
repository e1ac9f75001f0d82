//! How is a long run repeated, and where are its numbers kept?
use serde_json::Value;

/// SplitMix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The seed of this run: that of `CHAOS_SEED`, or a new one.
    pub fn seed() -> u64 {
        let new = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
        number("CHAOS_SEED").unwrap_or_else(new)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to `end`, which is not included.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// A number in the environment.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// Prints a result, and keeps it where `CHAOS_RESULTS` says.
pub fn keep(name: &str, result: &Value) {
    println!("{name}: {result}");
    if let Ok(folder) = std::env::var("CHAOS_RESULTS") {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(format!("{name}.json"));
        std::fs::write(path, serde_json::to_string_pretty(result).unwrap() + "\n").unwrap();
    }
}
