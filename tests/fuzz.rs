//! Does what the fuzzer has found in the configuration hold still? Runs the target over its corpus, without a fuzzer.
use std::path::Path;

#[path = "../fuzz/src/settings.rs"]
mod targets;

#[test]
fn settings_stand_their_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/settings");
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus") {
        let path = entry.expect("a file of the corpus").path();
        let data = std::fs::read(&path).expect("a file of the corpus");
        if std::panic::catch_unwind(|| targets::settings(&data)).is_err() {
            panic!("{} breaks the configuration", path.display());
        }
        count += 1;
    }
    assert!(count > 10, "there is a corpus: {count} files");
}
