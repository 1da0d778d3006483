//! Any answer of a server that is asked whether it works.
#![no_main]

libfuzzer_sys::fuzz_target!(init: {
    #[cfg(fuzzing)]
    wardring_agent::fuzz::write_seeds("probes");
}, |data: &[u8]| {
    #[cfg(fuzzing)]
    wardring_agent::fuzz::probes(data);
    #[cfg(not(fuzzing))]
    let _ = data;
});
