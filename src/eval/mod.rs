//! Evaluation: what is asked of a model, and how its answers are scored. No tensors here: models turn items into text.
//!
//! [`suites`] makes held-out items from the built-in scenes; [`metrics`] scores text answers; [`report`] prints and stores tables.

pub mod metrics;
pub mod report;
pub mod suites;

pub use metrics::{Answer, CaptionTally, CountTally, Normalisation, YesNoTally, normalise};
pub use report::{Report, Table};
pub use suites::{Item, Scorer, Scores, Suite, SuiteKind};
