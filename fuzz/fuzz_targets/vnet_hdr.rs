//! Fuzzes the virtio header.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| twill_fuzz::vnet_hdr(data));
