//! Any output of `dism.exe`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: {
    #[cfg(fuzzing)]
    wardring_agent::fuzz::write_seeds("dism");
}, |data: &[u8]| {
    #[cfg(fuzzing)]
    wardring_agent::fuzz::dism(data);
    #[cfg(not(fuzzing))]
    let _ = data;
});
