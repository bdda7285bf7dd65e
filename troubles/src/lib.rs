//! The table of troubles: what one container can do to another, and the flag of nspod that bounds it.
//!
//! A trouble has a *victim*, which measures its own progress, and a *hog*, which takes something from the victim. Both
//! are functions of [`hog`], which the program `nspod-hog` runs in containers.

pub mod hog;
