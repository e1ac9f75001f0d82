//! Does what the fuzzer has found hold still? Runs every target of `fuzz/src/protocol.rs` over its corpus, without a fuzzer.
use std::path::Path;

#[path = "../../../fuzz/src/protocol.rs"]
mod targets;

#[test]
fn every_target_stands_its_corpus() {
    for (name, target) in targets::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
        let mut count = 0;
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("a file of the corpus").path();
            let data = std::fs::read(&path).expect("a file of the corpus");
            if std::panic::catch_unwind(|| target(&data)).is_err() {
                panic!("{} breaks {name}", path.display());
            }
            count += 1;
        }
        assert!(count > 10, "{name} has a corpus: {count} files");
    }
}
