//! What must hold for any bytes? The targets, as the fuzzer calls them and as the tests replay them over `corpus`.
pub mod protocol;
#[cfg(feature = "settings")]
pub mod settings;
