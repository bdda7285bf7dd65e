//! Counts tests and names the failed ones, from the output of cargo's test harness.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// A line with this beginning, on either stream, says that a test did not run: `SKIP NAME: REASON`.
const SKIP: &str = "SKIP ";
/// A line with this beginning on stdout names the test program that runs from here on.
pub(crate) const PROGRAM: &str = "== program ";
/// A line with this beginning on stdout says that the program failed. Its exit code follows, as a shell gives it.
pub(crate) const FAILED: &str = "== failed, code ";
/// The exit code of the harness when tests failed.
const TEST_FAILED: &str = "101";
/// The exit code of `timeout` for a program that ran too long.
const TIMED_OUT: i32 = 124;
/// The number of lines that are kept of the output of a failed test, or of a broken program.
const KEPT: usize = 40;

/// The tests of one lane.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: u32,
    failed: u32,
    ignored: u32,
    skips: BTreeSet<String>,
    failures: Vec<Failure>,
    notes: Vec<String>,
    /// The program that runs.
    program: String,
    /// The programs with their starts, in the order in which they ran.
    starts: Vec<(String, Instant)>,
    /// Whether the program has printed its result.
    has_result: bool,
    section: Section,
    /// The last lines of the program.
    last: Tail,
    /// The unfinished last line of each stream.
    partial: [Vec<u8>; 2],
}

/// A failed test or a broken program.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// `PROGRAM: NAME`
    pub(crate) name: String,
    /// The end of the output of the test, or of the program.
    pub(crate) output: Tail,
}

/// The last lines of some output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tail(VecDeque<String>);

impl Tail {
    fn push(&mut self, line: &str) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(line.to_owned());
    }

    /// Returns the lines without the empty ones at the beginning and at the end.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &str> {
        let length = self.0.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1);
        self.0.iter().take(length).map(String::as_str).skip_while(|line| line.is_empty())
    }
}

/// A part of a program's output.
#[derive(Clone, Copy, Debug, Default)]
enum Section {
    /// One line for each test.
    #[default]
    Tests,
    /// The captured output of the tests, which can look like a failed test. The number is the index of the
    /// failure whose output follows.
    Output(Option<usize>),
}

/// Tests that passed, failed, and did not run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) skipped: u32,
}

impl Tally {
    /// Adds a piece of the tests' output. Stream 0 is stdout, stream 1 is stderr.
    pub(crate) fn push(&mut self, stream: usize, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.partial[stream]);
                self.line(stream, &String::from_utf8_lossy(&line));
            } else {
                self.partial[stream].push(byte);
            }
        }
    }

    /// Returns the skipped tests that reported themselves, each as `NAME: REASON`.
    pub(crate) fn skips(&self) -> impl Iterator<Item = &str> {
        self.skips.iter().map(String::as_str)
    }

    /// Forgets the failures of the program that runs: it runs again. Notes why.
    pub(crate) fn again(&mut self, why: &str) {
        let of_program = format!("{}: ", self.program);
        self.failures.retain(|failure| !failure.name.starts_with(&of_program));
        self.notes.push(format!("{of_program}{why}"));
    }

    /// Returns what a reader of the end of the output must know although no test failed.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Returns the name of the program that runs.
    pub(crate) fn program(&self) -> &str {
        &self.program
    }

    /// Reports that the lane ended while the program ran.
    pub(crate) fn cut_short(&mut self) {
        let output = std::mem::take(&mut self.last);
        self.failed += 1;
        self.fail("the program had not ended when its lane was ended", output);
    }

    /// Returns the programs that ran longest, each with its time, the longest first. The last program ends now.
    pub(crate) fn slowest(&self, count: usize) -> Vec<(&str, Duration)> {
        let ends = self.starts.iter().skip(1).map(|(_, start)| *start).chain([Instant::now()]);
        let times = self.starts.iter().zip(ends).map(|((name, start), end)| (name.as_str(), end - *start));
        let mut times: Vec<_> = times.collect();
        times.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
        times.truncate(count);
        times
    }

    /// Returns the failed tests and the broken programs in the order in which they ran.
    pub(crate) fn into_failures(self) -> Vec<Failure> {
        self.failures
    }

    /// Returns the counts. The harness counts a test that skipped itself as passed; this does not.
    pub(crate) fn counts(&self) -> Counts {
        let skipped = u32::try_from(self.skips.len()).unwrap_or(u32::MAX);
        Counts {
            passed: self.passed.saturating_sub(skipped),
            failed: self.failed,
            skipped: skipped + self.ignored,
        }
    }

    fn line(&mut self, stream: usize, line: &str) {
        if let Some(skip) = line.strip_prefix(SKIP) {
            self.skips.insert(skip.trim().to_owned());
        } else if stream == 0 {
            self.harness_line(line);
        }
        if !line.starts_with(PROGRAM) {
            self.last.push(line);
        }
    }

    fn harness_line(&mut self, line: &str) {
        if let Some(program) = line.strip_prefix(PROGRAM) {
            program.clone_into(&mut self.program);
            self.starts.push((program.to_owned(), Instant::now()));
            self.has_result = false;
            self.section = Section::Tests;
            self.last = Tail::default();
        } else if let Some(code) = line.strip_prefix(FAILED) {
            if code != TEST_FAILED || !self.has_result {
                self.failed += 1;
                let output = std::mem::take(&mut self.last);
                self.fail(&broken(code), output);
            }
        } else if let Some((passed, failed, ignored)) = result(line) {
            self.passed += passed;
            self.failed += failed;
            self.ignored += ignored;
            self.has_result = true;
            // `cargo test --doc` runs one harness for each crate.
            self.section = Section::Tests;
        } else if line == "failures:" || line == "successes:" {
            self.section = Section::Output(None);
        } else if let Section::Output(of) = self.section {
            if let Some(failure) = output_of(line).and_then(|name| self.failure(name)) {
                self.section = Section::Output(Some(failure));
            } else if let Some(failure) = of.filter(|_| !of_backtrace(line)) {
                self.failures[failure].output.push(line);
            }
        } else if let Some(name) = failed_test(line) {
            self.fail(name, Tail::default());
        }
    }

    fn fail(&mut self, what: &str, output: Tail) {
        self.failures.push(Failure { name: format!("{}: {what}", self.program), output });
    }

    /// Returns the index of a failed test of this program.
    fn failure(&self, name: &str) -> Option<usize> {
        let name = format!("{}: {name}", self.program);
        // The line of a test has a note after its name, the heading of its output does not.
        self.failures.iter().rposition(|failure| {
            failure
                .name
                .strip_prefix(&name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(" - should panic"))
        })
    }
}

/// Returns whether the line is of a backtrace, which would leave no room for the message before it.
fn of_backtrace(line: &str) -> bool {
    let frame = line.trim_start();
    let number = frame.split_once(": ").map_or("", |(number, _)| number);
    line == "stack backtrace:"
        || line.starts_with("   ") && number.parse::<u32>().is_ok()
        || line.starts_with("             at ")
}

/// Reads `---- NAME stdout ----`.
fn output_of(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

/// Reads `test NAME ... FAILED`.
fn failed_test(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

/// Describes the end of a program that gave no result.
fn broken(code: &str) -> String {
    match code.parse() {
        Ok(TIMED_OUT) => "the program hung and was killed".to_owned(),
        // A shell adds 128 to the number of the signal.
        Ok(code @ 129..) => format!("the program was killed by signal {}", code - 128),
        _ => format!("the program ended with code {code}"),
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

    fn names(tally: Tally) -> Vec<String> {
        tally.into_failures().into_iter().map(|failure| failure.name).collect()
    }

    fn outputs(tally: Tally) -> Vec<(String, String)> {
        let output = |failure: &Failure| failure.output.lines().collect::<Vec<_>>().join("\n");
        tally.into_failures().into_iter().map(|failure| (failure.name.clone(), output(&failure))).collect()
    }

    #[test]
    fn a_failed_test_has_its_own_output() {
        let mut tally = Tally::default();
        let of = |name: &str, text: &str| format!("---- {name} stdout ----\n{text}\n\n");
        let result = "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out\n";
        for text in [
            "\n== program cli, smoke\ntest a::one ... FAILED\ntest two ... ok\ntest three - should panic ... FAILED\n",
            &format!("\nsuccesses:\n\n{}\nsuccesses:\n    two\n", of("two", "fine")),
            &format!(
                "\nfailures:\n\n{}",
                of(
                    "a::one",
                    "\nthread 'a::one' panicked at x.rs:1:\n\nleft: 1\nstack backtrace:\n   0: f\n             at x.rs:1"
                )
            ),
            &of("three", "---- other stdout ----\ntest two ... FAILED"),
            &format!("\nfailures:\n    a::one\n    three\n\n{result}\n== failed, code 101\n"),
            "\n== program cli, other\ntest a::one ... FAILED\n",
            &format!("\nfailures:\n\n{}\nfailures:\n    a::one\n\n{result}", of("a::one", "elsewhere")),
        ] {
            tally.push(0, text.as_bytes());
        }
        let expected = [
            ("cli, smoke: a::one", "thread 'a::one' panicked at x.rs:1:\n\nleft: 1"),
            ("cli, smoke: three - should panic", "---- other stdout ----\ntest two ... FAILED"),
            ("cli, other: a::one", "elsewhere"),
        ];
        assert_eq!(outputs(tally), expected.map(|(name, output)| (name.to_owned(), output.to_owned())));
    }

    #[test]
    fn the_end_of_a_long_output_is_kept() {
        let mut tally = Tally::default();
        tally.push(0, b"== program p\ntest a ... FAILED\nfailures:\n---- a stdout ----\n");
        for line in 1..=KEPT + 2 {
            tally.push(0, format!("line {line}\n").as_bytes());
        }
        let output = &outputs(tally)[0].1;
        assert!(output.starts_with("line 3\n") && output.ends_with("\nline 42"), "{output}");
    }

    #[test]
    fn a_broken_program_has_the_last_lines_of_both_streams() {
        let mut tally = Tally::default();
        tally.push(0, b"== program before\nnot this\n== program p\nrunning 2 tests\ntest a ... ok\n");
        tally.push(1, b"what it says\n");
        tally.push(0, b"\n== failed, code 139\n");
        let expected = "running 2 tests\ntest a ... ok\nwhat it says";
        assert_eq!(
            outputs(tally),
            [("p: the program was killed by signal 11".to_owned(), expected.to_owned())]
        );
    }

    #[test]
    fn a_skipped_test_counts_once_and_not_as_passed() {
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

    #[test]
    fn a_failed_test_is_named_once_with_its_program() {
        let mut tally = Tally::default();
        tally.push(0, b"\n== program cli, smoke\n\nrunning 3 tests\ntest one ... ok\ntest mod::two ... FAI");
        tally.push(1, b"test on_stderr ... FAILED\n");
        tally.push(0, b"LED\ntest three - should panic ... FAILED\n\nsuccesses:\n\n---- one stdout ----\n");
        tally.push(
            0,
            b"test printed_by_a_test ... FAILED\n\nfailures:\n\nfailures:\n    mod::two\n    three\n\n",
        );
        tally.push(0, b"test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out\n");
        tally.push(0, b"\n== failed, code 101\n\n== program documentation\ntest src/lib.rs - a (line 3) ... FAILED\nfailures:\n");
        tally.push(
            0,
            b"test result: FAILED. 0 passed; 1 failed; 0 ignored\ntest src/b.rs - b (line 9) ... FAILED\n",
        );
        assert_eq!(
            names(tally),
            [
                "cli, smoke: mod::two",
                "cli, smoke: three - should panic",
                "documentation: src/lib.rs - a (line 3)",
                "documentation: src/b.rs - b (line 9)",
            ]
        );
    }

    #[test]
    fn a_program_that_the_end_of_its_lane_cut_short_is_named_with_its_last_lines() {
        let mut tally = Tally::default();
        tally.push(
            0,
            b"== program a\ntest result: ok. 1 passed; 0 failed; 0 ignored\n== program b\ntest x ... ok\n",
        );
        tally.cut_short();
        assert_eq!(tally.counts(), Counts { passed: 1, failed: 1, skipped: 0 });
        let expected = "b: the program had not ended when its lane was ended".to_owned();
        assert_eq!(outputs(tally), [(expected, "test x ... ok".to_owned())]);
    }

    #[test]
    fn the_slowest_programs_are_listed_by_their_times() {
        let mut tally = Tally::default();
        for (name, pause) in [("a", 0), ("b", 30), ("c", 0), ("d", 10)] {
            tally.push(0, format!("== program {name}\n").as_bytes());
            std::thread::sleep(Duration::from_millis(pause));
        }
        let slowest = tally.slowest(2);
        assert!(slowest[0].1 >= Duration::from_millis(30), "{slowest:?}");
        assert_eq!(slowest.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["b", "d"]);
    }

    #[test]
    fn a_program_that_hung_or_crashed_is_counted_and_named() {
        let mut tally = Tally::default();
        for (program, code) in [("a", "124"), ("b", "139"), ("c", "1"), ("d", "101")] {
            tally.push(
                0,
                format!("\n== program {program}\nsuccesses:\ntest x ... \n{FAILED}{code}\n").as_bytes(),
            );
        }
        assert_eq!(tally.counts(), Counts { passed: 0, failed: 4, skipped: 0 });
        assert_eq!(
            names(tally),
            [
                "a: the program hung and was killed",
                "b: the program was killed by signal 11",
                "c: the program ended with code 1",
                "d: the program ended with code 101",
            ]
        );
    }
}
