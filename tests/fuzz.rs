//! Does what the fuzzer has found in the configuration hold still? Runs the targets over their corpora, without a fuzzer.
use std::path::Path;

#[path = "../fuzz/src/packed.rs"]
mod packed;
#[path = "../fuzz/src/settings.rs"]
mod targets;

#[test]
fn every_target_stands_its_corpus() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    for (name, target) in targets::TARGETS {
        packed::replay(&fuzz, name, target);
    }
}
