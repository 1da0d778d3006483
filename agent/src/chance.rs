//! Random identities and jitter, for the shell alone: the state machine has no chance in it.

use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};

/// A random identity, 16 hexadecimal digits.
pub fn id() -> String {
    format!("{:016x}", number())
}

/// A span between half of `base` and one and a half of it, so that a fleet does not act in step.
pub fn around(base: Duration) -> Duration {
    base.mul_f64(0.5 + number() as f64 / u64::MAX as f64)
}

/// A random number below `count`; 0 if that is 0.
pub fn below(count: usize) -> usize {
    let count = u64::try_from(count).unwrap_or(u64::MAX).max(1);
    usize::try_from(number() % count).unwrap_or_default()
}

/// A random number.
pub fn number() -> u64 {
    let mut bytes = [0; 8];
    // Without random numbers identities would repeat; the system gives them or nothing works.
    SystemRandom::new().fill(&mut bytes).expect("the operating system gives random bytes");
    u64::from_le_bytes(bytes)
}
