//! The table of troubles: what one container can do to another, and the flag of nspod that bounds it.
//!
//! A trouble has a *victim*, which measures its own progress, and a *hog*, which takes something from the victim. Both
//! are functions of [`hog`], which the program `nspod-hog` runs in containers. [`rows`] is the table as data, and
//! [`measure_all`](measure::measure_all) measures its rows.

mod chart;
pub mod container;
pub mod hog;
pub mod host;
pub mod measure;
pub mod report;
pub mod rows;
