//! What must hold for any input? The targets, which the fuzzer calls and the tests replay over `corpus`.
pub mod protocol;
#[cfg(feature = "settings")]
pub mod settings;

#[cfg(feature = "settings")]
use settings::TARGETS as OF_SETTINGS;
#[cfg(not(feature = "settings"))]
const OF_SETTINGS: [protocol::Target; 0] = [];

/// Runs the target of this name.
pub fn run(name: &str, data: &[u8]) {
    let mut targets = protocol::TARGETS.iter().chain(&OF_SETTINGS);
    let (_, target) = targets.find(|(target, _)| *target == name).expect("each program is named after its target");
    target(data);
}
