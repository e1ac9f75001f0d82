//! Which inputs does a packed corpus contain? For the tests that replay it without a fuzzer.
use std::fs::File;
use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;

/// The inputs in `corpus/<target>.tar.gz` of the folder `fuzz`, each with its name.
pub fn inputs(fuzz: &Path, target: &str) -> Vec<(String, Vec<u8>)> {
    let path = fuzz.join("corpus").join(target).with_extension("tar.gz");
    let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut archive = tar::Archive::new(GzDecoder::new(file));
    let mut inputs = Vec::new();
    for entry in archive.entries().expect("an archive") {
        let mut entry = entry.expect("an entry of the archive");
        if entry.header().entry_type().is_file() {
            let name = entry.path().expect("a name").display().to_string();
            let mut data = Vec::new();
            entry.read_to_end(&mut data).expect("an input");
            inputs.push((name, data));
        }
    }
    assert!(inputs.len() > 10, "{target} has a corpus: {} inputs", inputs.len());
    inputs
}

/// Runs a target over its corpus and names the input that breaks it.
pub fn replay(fuzz: &Path, name: &str, target: impl Fn(&[u8]) + std::panic::RefUnwindSafe) {
    for (input, data) in inputs(fuzz, name) {
        if std::panic::catch_unwind(|| target(&data)).is_err() {
            panic!("{input} of fuzz/corpus/{name}.tar.gz breaks {name}");
        }
    }
}
