#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| uproar_fuzz::data(input));
