//! Measures sides in turns.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// One of the compared programs or functions: its name, and a function that runs it once and returns the time in
/// µs, or [`LOST`].
pub(crate) struct Side<'a> {
    pub(crate) name: String,
    pub(crate) once: Box<dyn FnMut() -> Result<f64> + 'a>,
}

impl<'a> Side<'a> {
    /// Returns a side whose function is timed from call to return.
    pub(crate) fn timed<E: Into<anyhow::Error>>(
        name: impl Into<String>,
        mut what: impl FnMut() -> std::result::Result<(), E> + 'a,
    ) -> Side<'a> {
        Side::of(name, move || {
            let start = Instant::now();
            what().map_err(Into::into)?;
            Ok(micros(start.elapsed()))
        })
    }

    /// Returns a side whose function returns its own time.
    pub(crate) fn of(name: impl Into<String>, once: impl FnMut() -> Result<f64> + 'a) -> Side<'a> {
        Side { name: name.into(), once: Box::new(once) }
    }
}

/// Time of a round that does not count, because a peer hung in it.
pub(crate) const LOST: f64 = f64::NAN;

/// When to stop.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    pub(crate) time: Duration,
    pub(crate) rounds: usize,
}

impl Budget {
    pub(crate) fn new(seconds: f64, rounds: usize) -> Budget {
        Budget { time: Duration::from_secs_f64(seconds), rounds }
    }
}

/// The times of one side, in µs, in ascending order.
#[derive(Debug, Clone)]
pub(crate) struct Samples {
    pub(crate) name: String,
    sorted: Vec<f64>,
    /// Number of lost rounds.
    pub(crate) lost: usize,
}

impl Samples {
    pub(crate) fn new(name: impl Into<String>, values: Vec<f64>) -> Samples {
        let count = values.len();
        let mut sorted: Vec<f64> = values.into_iter().filter(|value| !value.is_nan()).collect();
        sorted.sort_by(f64::total_cmp);
        Samples { name: name.into(), lost: count - sorted.len(), sorted }
    }

    /// Returns the samples of two runs as one.
    pub(crate) fn and(&self, name: impl Into<String>, other: &Samples) -> Samples {
        let both = Samples::new(name, [self.sorted.as_slice(), &other.sorted].concat());
        Samples { lost: self.lost + other.lost, ..both }
    }

    pub(crate) fn min(&self) -> f64 {
        self.sorted.first().copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.sorted.get(self.sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn count(&self) -> usize {
        self.sorted.len()
    }
}

/// Runs the sides in turns, every second round in reverse order, until the time or the rounds are used up. Runs at
/// least two rounds, after one round that does not count.
pub(crate) fn alternate(budget: Budget, mut sides: Vec<Side<'_>>) -> Result<Vec<Samples>> {
    let count = sides.len();
    let mut values = vec![Vec::new(); count];
    for side in &mut sides {
        (side.once)().with_context(|| side.name.clone())?;
    }
    let start = Instant::now();
    for round in 0..budget.rounds.max(2) {
        if round >= 2 && start.elapsed() > budget.time {
            break;
        }
        let mut one = |number: usize| {
            let side = &mut sides[number];
            values[number].push((side.once)().with_context(|| side.name.clone())?);
            Ok::<_, anyhow::Error>(())
        };
        match round % 2 {
            0 => (0..count).try_for_each(&mut one)?,
            _ => (0..count).rev().try_for_each(&mut one)?,
        }
    }
    Ok(sides.into_iter().zip(values).map(|(side, values)| Samples::new(side.name, values)).collect())
}

pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn sides_take_turns_and_every_second_round_is_in_reverse() {
        let order = RefCell::new(String::new());
        let side = |name: &'static str| {
            let order = &order;
            Side::of(name, move || {
                order.borrow_mut().push_str(name);
                Ok(1.0)
            })
        };
        let samples = alternate(Budget::new(60.0, 3), vec![side("a"), side("b")]).unwrap();
        assert_eq!(samples.iter().map(Samples::count).collect::<Vec<_>>(), [3, 3]);
        assert_eq!(*order.borrow(), "ababbaab", "a round that does not count, and three");
    }

    #[test]
    fn a_lost_round_gives_no_sample() {
        let samples = Samples::new("x", vec![3.0, LOST, 1.0, 2.0]);
        assert_eq!((samples.count(), samples.lost), (3, 1));
        assert_eq!((samples.min(), samples.median()), (1.0, 2.0));
    }
}
