//! Which bytes does the fuzzer try? Every target is a program of this file, and runs the function of its own name.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ollama_gateway_fuzz::run(env!("CARGO_BIN_NAME"), data));
