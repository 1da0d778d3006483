//! A sealed job with any payload, up to the agent's decision on it.
#![no_main]

libfuzzer_sys::fuzz_target!(init: {
    #[cfg(fuzzing)]
    wardring_agent::fuzz::write_seeds("job");
}, |data: &[u8]| {
    #[cfg(fuzzing)]
    wardring_agent::fuzz::job(data);
    #[cfg(not(fuzzing))]
    let _ = data;
});
