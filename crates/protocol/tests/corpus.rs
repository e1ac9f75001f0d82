//! Do the fuzzer's findings still hold? Runs every target of `fuzz/src/protocol.rs` over its corpus, without a fuzzer.
use std::path::Path;

#[path = "../../../fuzz/src/packed.rs"]
mod packed;
#[path = "../../../fuzz/src/protocol.rs"]
mod targets;

#[test]
fn every_target_stands_its_corpus() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    for (name, target) in targets::TARGETS {
        packed::replay(&fuzz, name, target);
    }
}
