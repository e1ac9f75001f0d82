//! What must hold for any input? The targets, which the fuzzer calls and the tests replay over `corpus`.
pub mod protocol;
#[cfg(feature = "settings")]
pub mod settings;
