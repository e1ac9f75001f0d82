#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| ollama_gateway_fuzz::protocol::usage(data));
