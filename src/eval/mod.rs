//! Evaluation: what is asked of a model, and how its answers are scored. No tensors here: models turn items into text.
//!
//! [`suites`] makes held-out items from the built-in scenes; [`metrics`] scores text answers; [`report`] prints and stores tables;
//! [`run`] is the job that puts all suites to a trained model.

pub mod metrics;
pub mod report;
pub mod run;
pub mod suites;

pub use metrics::{Answer, CaptionTally, CountTally, Normalisation, YesNoTally, normalise};
pub use report::{Report, Shift, Table};
pub use run::{EvalOptions, evaluate};
pub use suites::{Item, Scorer, Scores, Suite, SuiteKind};
