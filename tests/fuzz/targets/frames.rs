//! Hands inputs to the property of the same name.
#![no_main]

#[path = "../properties/frames.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|input: &[u8]| property::holds(input));
