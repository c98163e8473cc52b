//! Training: what a run is made of ([`config`]), how fast it learns ([`schedule`]), what it writes down ([`log`]),
//! what it draws in between ([`samples`]).

mod alignment;
pub mod config;
pub mod log;
pub mod run;
pub mod samples;
pub mod schedule;
pub mod stage;
pub mod step;
