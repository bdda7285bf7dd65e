//! Counts tests from what cargo's test harness prints.

use std::collections::BTreeSet;

/// A line like this, on either stream, says that a test did not run: `SKIP NAME: REASON`.
const SKIP: &str = "SKIP ";

/// The tests of one lane.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: u32,
    failed: u32,
    ignored: u32,
    skips: BTreeSet<String>,
    /// The unfinished last line of each stream.
    partial: [Vec<u8>; 2],
}

/// Tests that passed, failed, and did not run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) skipped: u32,
}

impl Tally {
    /// Takes a piece of what the tests printed on a stream: 0 is stdout, 1 stderr.
    pub(crate) fn push(&mut self, stream: usize, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.partial[stream]);
                self.line(&String::from_utf8_lossy(&line));
            } else {
                self.partial[stream].push(byte);
            }
        }
    }

    /// The tests that said that they could not run: `NAME: REASON`.
    pub(crate) fn skips(&self) -> impl Iterator<Item = &str> {
        self.skips.iter().map(String::as_str)
    }

    /// The counts. To the harness a test that skipped itself has passed; here it has not.
    pub(crate) fn counts(&self) -> Counts {
        let skipped = u32::try_from(self.skips.len()).unwrap_or(u32::MAX);
        Counts {
            passed: self.passed.saturating_sub(skipped),
            failed: self.failed,
            skipped: skipped + self.ignored,
        }
    }

    fn line(&mut self, line: &str) {
        if let Some(skip) = line.strip_prefix(SKIP) {
            self.skips.insert(skip.trim().to_owned());
        } else if let Some((passed, failed, ignored)) = result(line) {
            self.passed += passed;
            self.failed += failed;
            self.ignored += ignored;
        }
    }
}

/// Reads `test result: ok. 9 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.03s`.
fn result(line: &str) -> Option<(u32, u32, u32)> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |what: &str| {
        counts.split(';').find_map(|part| part.trim().strip_suffix(what)?.trim().parse::<u32>().ok())
    };
    Some((count("passed")?, count("failed")?, count("ignored")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_skipped_itself_has_not_passed_and_counts_once() {
        let mut tally = Tally::default();
        tally.push(0, b"test a ... ok\ntest result: ok. 5 passed; 0 failed; 2 ignored; 0 meas");
        tally.push(1, b"SKIP a: no memory controller\nSKIP b");
        tally.push(0, b"ured; 0 filtered out; finished in 0.03s\nSKIP a: no memory controller\n");
        tally.push(1, b": no cpu controller\n");
        tally.push(0, b"test result: FAILED. 1 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out\n");
        assert_eq!(tally.counts(), Counts { passed: 4, failed: 3, skipped: 4 });
        assert_eq!(tally.skips().collect::<Vec<_>>(), ["a: no memory controller", "b: no cpu controller"]);
    }

    #[test]
    fn other_lines_do_not_count() {
        let mut tally = Tally::default();
        tally
            .push(0, b"test result: odd\nnot a test result: ok. 1 passed; 0 failed; 0 ignored\n SKIP x: y\n");
        assert_eq!(tally.counts(), Counts::default());
    }
}
