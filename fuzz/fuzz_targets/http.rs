//! Fuzzes what clients of the HTTP server send.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| twill_fuzz::http(data));
