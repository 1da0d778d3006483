//! A journal with any content.
#![no_main]

libfuzzer_sys::fuzz_target!(init: {
    #[cfg(fuzzing)]
    wardring_agent::fuzz::write_seeds("journal");
}, |data: &[u8]| {
    #[cfg(fuzzing)]
    wardring_agent::fuzz::journal(data);
    #[cfg(not(fuzzing))]
    let _ = data;
});
