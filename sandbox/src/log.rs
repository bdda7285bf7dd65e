//! The log of a container: its output in a ring of files of limited size.
//!
//! The container's standard output and error are one pipe. The embedded init copies the pipe to the files. If
//! the current file is full, the init truncates the oldest one and continues there. The files together never
//! exceed their limit, and the container pays for at most a few hundred KiB of page cache. A container that can
//! trace its init (`CAP_SYS_PTRACE`) can write to the files itself, and only to these.
//!
//! Each file that is not empty starts with a line of 64 bytes: `nspod log NUMBER LOST`, padded with spaces.
//! `NUMBER` gives the order of the files. `LOST` is the number of bytes that could not be written until then,
//! because the disk was full: the container does not wait for such a disk.
//!
//! Each file has a file of times beside it: records of 16 bytes, each two numbers in the byte order of the machine. The
//! first one is `NUMBER` and 0. Each other one is a time in nanoseconds since 1970, and the offset after the header of
//! the output that the init copied then. Their distance is a millisecond at least.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::error::Error;
use crate::store::Dir;

/// Size of the header of a file.
const HEADER: u64 = 64;
/// Size of a record of a file of times.
const RECORD: usize = 16;
/// Size of the blocks in which times are read, and a log from its end.
const BLOCK: u64 = 4096;

/// The largest number of files of a log.
pub const MAX_FILES: u32 = 16;
/// The smallest size of a file in bytes.
pub const MIN_SIZE: u64 = 4096;
/// The size of a file is less than this number of bytes.
pub const MAX_SIZE: u64 = 1 << 41;

/// Bounds of a log. The log has at most `size * files` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimit {
    /// Maximum size of a file with its times in bytes: at least [`MIN_SIZE`] and less than [`MAX_SIZE`]. It is rounded down to
    /// KiB.
    pub size: u64,
    /// Number of files: 1 to [`MAX_FILES`].
    pub files: u32,
}

/// The files of a log, for the init of one container. See [`Command::log`](crate::Command::log).
#[derive(Debug)]
pub struct Log {
    /// The files, and then their times.
    files: Vec<File>,
    kib: i32,
}

impl Log {
    /// Creates the files of a log in this directory.
    ///
    /// # Errors
    /// - [`ErrorKind::InvalidSpec`](crate::ErrorKind::InvalidSpec): the limit is out of range.
    /// - The errno of [openat(2)](https://man7.org/linux/man-pages/man2/open.2.html).
    pub fn create(dir: &Dir, limit: LogLimit) -> Result<Log, Error> {
        if !(1..=MAX_FILES).contains(&limit.files) {
            return Err(Error::invalid("log.files", format!("a log has 1 to {MAX_FILES} files")));
        }
        let kib = i32::try_from(limit.size >> 10).ok();
        let kib = kib.filter(|_| (MIN_SIZE..MAX_SIZE).contains(&limit.size));
        let kib = kib.ok_or_else(|| Error::invalid("log.size", "a file of a log has 4 KiB to 2 TiB"))?;
        let names = (0..limit.files).map(name).chain((0..limit.files).map(name_of_times));
        let files = names.map(|name| dir.create_empty(&name)).collect::<Result<_, _>>()?;
        Ok(Log { files, kib })
    }

    /// Returns the descriptors of the files, and then those of their times.
    pub(crate) fn fds(&self) -> impl Iterator<Item = RawFd> {
        self.files.iter().map(AsRawFd::as_raw_fd)
    }

    /// Returns the number of files without those of times.
    pub(crate) fn count(&self) -> i32 {
        (self.files.len() / 2) as i32
    }

    /// Returns the maximum size of a file in KiB.
    pub(crate) fn kib(&self) -> i32 {
        self.kib
    }
}

fn name(number: u32) -> String {
    format!("log.{number}")
}

fn name_of_times(number: u32) -> String {
    format!("times.{number}")
}

/// Reads a log while the container writes it.
///
/// ```
/// # use nspod_sandbox::{Command, log::{Log, LogLimit, LogReader}, store::Dir};
/// # if !nix::unistd::geteuid().is_root() { return Ok(()); }
/// # let temp = tempfile::tempdir()?;
/// let dir = Dir::private(&temp.path().join("log"), || None)?;
/// let mut command = Command::new("echo");
/// command.init(true);
/// command.arg("hello").log(Log::create(&dir, LogLimit { size: 1 << 20, files: 2 })?);
/// command.status()?;
/// let mut reader = LogReader::open(dir.path())?.expect("a log");
/// let mut text = [0; 100];
/// let n = reader.read(&mut text)?;
/// assert_eq!(&text[..n], b"hello\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct LogReader {
    files: Vec<File>,
    /// The files of times: as many as `files`, or none.
    times: Vec<File>,
    /// Size of the header: 0 if the log is an ordinary file.
    header: u64,
    /// The next byte: the number of its file and the offset after the header.
    number: u64,
    offset: u64,
    /// Index of the file that was read last.
    index: usize,
    records: Records,
}

/// The place in a file of times.
#[derive(Debug, Default)]
struct Records {
    /// Number of the file of the log.
    number: u64,
    /// Offset in the log up to which the records were searched.
    searched: u64,
    /// Records that were read and not used, the next one last, and the place of those after them.
    block: Vec<[u64; 2]>,
    at: u64,
    /// Time of the last record that was used.
    time: Option<u64>,
}

/// A file of a log that is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    number: u64,
    lost: u64,
    index: usize,
}

impl LogReader {
    /// Opens the log in a directory of the host. Returns `None` if there is none.
    ///
    /// # Errors
    /// The errno of [openat(2)](https://man7.org/linux/man-pages/man2/open.2.html).
    pub fn open(dir: &Path) -> Result<Option<LogReader>, Error> {
        let open = |name: String| {
            let path = dir.join(name);
            match File::open(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => None,
                opened => Some(opened.map_err(|e| Error::path("log", "open", &path, &e))),
            }
        };
        let files: Vec<File> = (0..MAX_FILES).map(name).map_while(open).collect::<Result<_, _>>()?;
        let mut times: Vec<File> =
            (0..MAX_FILES).map(name_of_times).map_while(open).collect::<Result<_, _>>()?;
        if times.len() != files.len() {
            times.clear();
        }
        Ok((!files.is_empty()).then_some(LogReader::of(files, times, HEADER)))
    }

    /// Reads an ordinary file as a log.
    pub fn of_file(file: File) -> LogReader {
        LogReader::of(vec![file], Vec::new(), 0)
    }

    fn of(files: Vec<File>, times: Vec<File>, header: u64) -> LogReader {
        LogReader { files, times, header, number: 0, offset: 0, index: 0, records: Records::default() }
    }

    /// Returns whether the log has files of times. An ordinary file has none.
    pub fn has_times(&self) -> bool {
        !self.times.is_empty()
    }

    /// Reads the next bytes as [`read`](Self::read), and the times at which the init copied them, to a millisecond.
    /// Replaces `times` by the first byte and the time of each part of the buffer. A part has no time if the log has
    /// none, or if the container's filter rejects clock_gettime(2).
    ///
    /// # Errors
    /// The errno of [pread(2)](https://man7.org/linux/man-pages/man2/pread.2.html).
    pub fn read_timed(
        &mut self,
        buffer: &mut [u8],
        times: &mut Vec<(usize, Option<SystemTime>)>,
    ) -> io::Result<usize> {
        times.clear();
        let n = self.read(buffer)?;
        let start = self.offset.saturating_sub(n as u64);
        let mut at = 0;
        while at < n {
            let (time, end) = self.time_of(start + at as u64)?;
            let time = time.and_then(|time| SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(time)));
            times.push((at, time));
            at = end.saturating_sub(start).min(n as u64) as usize;
        }
        Ok(n)
    }

    /// Returns the time of the byte at this offset in the current file, and the offset of the next time.
    fn time_of(&mut self, offset: u64) -> io::Result<(Option<u64>, u64)> {
        let Some(file) = self.times.get(self.index) else { return Ok((None, u64::MAX)) };
        let records = &mut self.records;
        if records.number != self.number || offset < records.searched {
            *records = Records { number: self.number, ..Records::default() };
        }
        records.searched = offset;
        loop {
            match records.block.last().copied() {
                Some([_, from]) if from > offset => return Ok((records.time, from)),
                Some([time, _]) => {
                    records.time = Some(time);
                    records.block.pop();
                }
                None if !records.fill(file)? => return Ok((records.time, u64::MAX)),
                None => {}
            }
        }
    }

    /// Reads the next bytes. Returns 0 at the end of what has been written. If the container has overwritten
    /// the next bytes, continues with the oldest ones that exist.
    ///
    /// # Errors
    /// The errno of [pread(2)](https://man7.org/linux/man-pages/man2/pread.2.html).
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let parts = self.parts()?;
            let Some(part) = parts.iter().find(|part| part.number >= self.number) else { return Ok(0) };
            if part.number != self.number {
                (self.number, self.offset) = (part.number, 0);
            }
            let n = self.files[part.index].read_at(buffer, self.header + self.offset)?;
            // The file can have been truncated before the read.
            let current = self.part(part.index)?.is_some_and(|now| now.number == part.number);
            if n > 0 && current {
                self.offset += n as u64;
                self.index = part.index;
                return Ok(n);
            }
            // The file was complete before the read if there was a newer one.
            if current && parts.last() == Some(part) {
                return Ok(0);
            }
            if current {
                // A container that has taken over its init can write any number.
                let Some(next) = self.number.checked_add(1) else { return Ok(0) };
                (self.number, self.offset) = (next, 0);
            }
        }
    }

    /// Continues with the last `lines` lines.
    ///
    /// # Errors
    /// The errno of [pread(2)](https://man7.org/linux/man-pages/man2/pread.2.html).
    pub fn seek_to_last(&mut self, lines: u64) -> io::Result<()> {
        let (mut found, mut is_last_byte) = (0, true);
        let mut block = [0; BLOCK as usize];
        for part in self.parts()?.iter().rev() {
            let file = &self.files[part.index];
            let mut at = file.metadata()?.len().saturating_sub(self.header);
            if lines == 0 {
                (self.number, self.offset) = (part.number, at);
                return Ok(());
            }
            while at > 0 {
                let size = at.min(BLOCK);
                at -= size;
                let block = &mut block[..size as usize];
                match file.read_exact_at(block, self.header + at) {
                    // The file was truncated, and so were all older ones.
                    Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                        (self.number, self.offset) = (part.number.saturating_add(1), 0);
                        return Ok(());
                    }
                    other => other?,
                }
                for (byte, position) in block.iter().rev().zip((at + 1..=at + size).rev()) {
                    // A newline at the end of the log ends the last line and does not begin another.
                    if *byte == b'\n' && !is_last_byte {
                        found += 1;
                        if found == lines {
                            (self.number, self.offset) = (part.number, position);
                            return Ok(());
                        }
                    }
                    is_last_byte = false;
                }
            }
        }
        (self.number, self.offset) = (0, 0);
        Ok(())
    }

    /// Returns the size of the log with its times in bytes.
    ///
    /// # Errors
    /// The errno of [fstat(2)](https://man7.org/linux/man-pages/man2/fstat.2.html).
    pub fn size(&self) -> io::Result<u64> {
        self.files.iter().chain(&self.times).map(|file| Ok(file.metadata()?.len())).sum()
    }

    /// Returns the number of bytes that could not be written, because the disk was full.
    ///
    /// # Errors
    /// The errno of [pread(2)](https://man7.org/linux/man-pages/man2/pread.2.html).
    pub fn lost(&self) -> io::Result<u64> {
        Ok(self.parts()?.iter().map(|part| part.lost).max().unwrap_or(0))
    }

    /// Returns the files that are not empty, the oldest first.
    fn parts(&self) -> io::Result<Vec<Part>> {
        let parts = (0..self.files.len()).filter_map(|index| self.part(index).transpose());
        let mut parts: Vec<Part> = parts.collect::<io::Result<_>>()?;
        parts.sort();
        Ok(parts)
    }

    /// Reads the header of a file. Returns `None` if the file has no valid header.
    fn part(&self, index: usize) -> io::Result<Option<Part>> {
        if self.header == 0 {
            return Ok(Some(Part { number: 0, lost: 0, index }));
        }
        let mut header = [0; HEADER as usize];
        match self.files[index].read_exact_at(&mut header, 0) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            read => read.map(|()| parse(&header).map(|(number, lost)| Part { number, lost, index })),
        }
    }
}

impl Records {
    /// Reads the next block. Returns false if there is none: the records before it were the last ones, or belong to
    /// another file of the log.
    fn fill(&mut self, file: &File) -> io::Result<bool> {
        let mut block = [0; BLOCK as usize];
        let n = file.read_at(&mut block, self.at)?;
        let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
        let records = block[..n].chunks_exact(RECORD).map(|record| [word(&record[..8]), word(&record[8..])]);
        self.block = records.collect();
        if self.at == 0 && self.block.first().is_none_or(|[number, _]| *number != self.number) {
            self.block.clear();
            return Ok(false);
        }
        let first = usize::from(self.at == 0);
        self.at += (self.block.len() * RECORD) as u64;
        self.block.drain(..first);
        self.block.reverse();
        Ok(!self.block.is_empty())
    }
}

/// Parses a header.
fn parse(header: &[u8]) -> Option<(u64, u64)> {
    let text = std::str::from_utf8(header).ok()?.strip_prefix("nspod log ")?;
    let (number, lost) = text.trim_end().split_once(' ')?;
    Some((number.parse().ok()?, lost.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    struct Ring {
        temp: tempfile::TempDir,
        files: usize,
    }

    impl Ring {
        fn new(files: usize) -> Ring {
            let ring = Ring { temp: tempfile::tempdir().unwrap(), files };
            (0..files).for_each(|n| drop(ring.file(n)));
            ring
        }

        fn file(&self, n: usize) -> File {
            let path = self.temp.path().join(name(n as u32));
            File::options().create(true).append(true).open(path).unwrap()
        }

        /// Writes a file as the init does.
        fn begin(&self, number: usize, lost: u64, text: &str) {
            let mut file = self.file((number - 1) % self.files);
            file.set_len(0).unwrap();
            writeln!(file, "{:63}", format!("nspod log {number:020} {lost:020}")).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        fn reader(&self) -> LogReader {
            LogReader::open(self.temp.path()).unwrap().unwrap()
        }
    }

    fn rest(reader: &mut LogReader) -> String {
        let (mut text, mut buffer) = (Vec::new(), [0; 3]);
        loop {
            match reader.read(&mut buffer).unwrap() {
                0 => return String::from_utf8(text).unwrap(),
                n => text.extend(&buffer[..n]),
            }
        }
    }

    #[test]
    fn a_log_is_read_in_the_order_of_its_files() {
        let ring = Ring::new(3);
        assert_eq!(rest(&mut ring.reader()), "");
        for (number, want) in
            [(1, "one\n"), (2, "one\ntwo\n"), (3, "one\ntwo\nthree\n"), (4, "two\nthree\nfour\n")]
        {
            ring.begin(number, 0, ["", "one\n", "two\n", "three\n", "four\n"][number]);
            assert_eq!(rest(&mut ring.reader()), want);
        }
        assert_eq!((ring.reader().size().unwrap(), ring.reader().lost().unwrap()), (3 * 64 + 15, 0));
        ring.begin(5, 7, "");
        assert_eq!(ring.reader().lost().unwrap(), 7);
    }

    #[test]
    fn a_reader_follows_into_the_next_file_and_past_overwritten_ones() {
        let ring = Ring::new(2);
        let mut reader = ring.reader();
        ring.begin(1, 0, "a");
        assert_eq!(rest(&mut reader), "a");
        ring.file(0).write_all(b"b").unwrap();
        ring.begin(2, 0, "c");
        assert_eq!(rest(&mut reader), "bc");
        for number in 3..6 {
            ring.begin(number, 0, &number.to_string());
        }
        assert_eq!(rest(&mut reader), "45");
        // A file that is being replaced has no header for a moment.
        ring.file(1).set_len(0).unwrap();
        assert_eq!(rest(&mut reader), "");
        ring.begin(6, 0, "6");
        assert_eq!(rest(&mut reader), "6");
    }

    #[test]
    fn the_last_lines_are_found_across_files() {
        let ring = Ring::new(3);
        let last = |lines| {
            let mut reader = ring.reader();
            reader.seek_to_last(lines).unwrap();
            rest(&mut reader)
        };
        assert_eq!(last(2), "");
        ring.begin(1, 0, "a\nb\nc");
        assert_eq!(
            (last(0), last(1), last(2), last(9)),
            ("".into(), "c".into(), "b\nc".into(), "a\nb\nc".into())
        );
        ring.begin(2, 0, "d\n");
        assert_eq!((last(1), last(2)), ("cd\n".into(), "b\ncd\n".into()));
        ring.begin(3, 0, "e\n");
        assert_eq!((last(0), last(1), last(2)), ("".into(), "e\n".into(), "cd\ne\n".into()));
        let long = "x".repeat(2 * BLOCK as usize);
        ring.begin(4, 0, &format!("{long}\nz"));
        assert_eq!((last(1), last(2), last(3)), ("z".into(), format!("{long}\nz"), format!("e\n{long}\nz")));
    }

    #[test]
    fn the_parts_of_a_buffer_have_their_times() {
        let ring = Ring::new(2);
        let write = |n: usize, records: &[[u64; 2]]| {
            let bytes: Vec<u8> = records.iter().flatten().flat_map(|word| word.to_ne_bytes()).collect();
            std::fs::write(ring.temp.path().join(name_of_times(n as u32)), bytes).unwrap();
        };
        ring.begin(1, 0, "aabbb");
        ring.begin(2, 0, "cc");
        assert!(!ring.reader().has_times());
        write(0, &[[1, 0], [10, 0], [20, 2]]);
        // The file of times has not been replaced yet.
        write(1, &[[7, 0], [70, 0]]);
        let mut reader = ring.reader();
        assert!(reader.has_times());
        let (mut times, mut buffer) = (Vec::new(), [0; 4]);
        let mut next = || {
            let n = reader.read_timed(&mut buffer, &mut times).unwrap();
            let nanos = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
            (n, times.iter().map(|(at, time)| (*at, time.map(nanos))).collect::<Vec<_>>())
        };
        assert_eq!(next(), (4, vec![(0, Some(10)), (2, Some(20))]));
        assert_eq!(next(), (1, vec![(0, Some(20))]));
        assert_eq!(next(), (2, vec![(0, None)]));
        assert_eq!(next(), (0, vec![]));
        write(1, &[[2, 0], [30, 0], [40, 2]]);
        ring.file(1).write_all(b"dd").unwrap();
        assert_eq!(next(), (2, vec![(0, Some(40))]));
        // Many records are read in blocks.
        let many: Vec<[u64; 2]> = (0..1000).map(|n| if n == 0 { [3, 0] } else { [n, n - 1] }).collect();
        write(0, &many);
        ring.begin(3, 0, &"x".repeat(2000));
        let mut reader = ring.reader();
        let (mut times, mut buffer) = (Vec::new(), [0; 4096]);
        assert_eq!(reader.read_timed(&mut buffer, &mut times).unwrap(), 4);
        assert_eq!(reader.read_timed(&mut buffer, &mut times).unwrap(), 2000);
        let at = |n: usize| (n, SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(n as u64 + 1)));
        assert_eq!(times, (0..999).map(at).collect::<Vec<_>>());
    }

    #[test]
    fn an_ordinary_file_has_no_header() {
        let temp = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(temp.path(), "a\nb\n").unwrap();
        let mut reader = LogReader::of_file(temp.reopen().unwrap());
        assert_eq!(rest(&mut reader), "a\nb\n");
        reader.seek_to_last(1).unwrap();
        assert_eq!((rest(&mut reader), reader.size().unwrap()), ("b\n".into(), 4));
    }

    #[test]
    fn a_limit_out_of_range_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::shared(temp.path(), || None).unwrap();
        for (size, files) in [(4095, 1), (4096, 0), (4096, 17), (MAX_SIZE, 1)] {
            let error = Log::create(&dir, LogLimit { size, files }).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::InvalidSpec, "{size} {files}");
        }
        assert!(dir.names().unwrap().is_empty());
    }
}
