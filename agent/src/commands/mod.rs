//! The commands of the program that are more than a line.

#[cfg(windows)]
pub mod exercise;
#[cfg(windows)]
pub mod install;
pub mod pause;
#[cfg(windows)]
pub mod selftest;
pub mod status;
pub mod support;
#[cfg(windows)]
pub mod update;
