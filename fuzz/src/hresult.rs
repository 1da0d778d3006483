//! Any text in the place of a code.
#![no_main]

libfuzzer_sys::fuzz_target!(init: {
    #[cfg(fuzzing)]
    wardring_agent::fuzz::write_seeds("hresult");
}, |data: &[u8]| {
    #[cfg(fuzzing)]
    wardring_agent::fuzz::hresult(data);
    #[cfg(not(fuzzing))]
    let _ = data;
});
