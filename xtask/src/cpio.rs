//! The archive that the kernel unpacks as its first file system: cpio, format `newc`
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

/// An archive that is being written.
#[derive(Default)]
pub(crate) struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const SYMLINK: u32 = 0o120_777;
const CONSOLE: u32 = 0o020_600;

impl Cpio {
    /// Adds an empty directory. Add its parents first.
    pub(crate) fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY, (0, 0), b"");
    }

    /// Adds a file that everyone may execute.
    pub(crate) fn program(&mut self, path: &str, content: &[u8]) {
        self.entry(path, PROGRAM, (0, 0), content);
    }

    /// Adds a symbolic link.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) {
        self.entry(path, SYMLINK, (0, 0), target.as_bytes());
    }

    /// Adds the device that becomes the standard streams of process 1.
    pub(crate) fn console(&mut self, path: &str) {
        self.entry(path, CONSOLE, (5, 1), b"");
    }

    /// Returns the whole archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), b"");
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) {
        self.entries += 1;
        // ino, mode, uid, gid, nlink, mtime, size, dev (major, minor), rdev, length of the name, checksum
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            u32::try_from(content.len()).expect("a file of the guest's first file system is below 4 GiB"),
            0,
            0,
            major,
            minor,
            u32::try_from(path.len() + 1).expect("a path is short"),
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn busybox_lists_what_was_archived() {
        let mut cpio = Cpio::default();
        cpio.directory("bin");
        cpio.program("bin/a", b"12345");
        cpio.symlink("bin/b", "a");
        let archive = cpio.finish();
        // busybox does not check this, but the kernel does: the length of the name includes its zero byte.
        assert_eq!(&archive[94..114], b"0000000400000000bin\0");

        let Ok(mut child) = Command::new("busybox")
            .args(["cpio", "-tv"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
        else {
            eprintln!("SKIP busybox_lists_what_was_archived: busybox is not installed");
            return;
        };
        child.stdin.take().unwrap().write_all(&archive).unwrap();
        let listing = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();

        let lines: Vec<Vec<&str>> = listing.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines.len(), 3, "{listing}");
        assert!(lines[0][0] == "drwxr-xr-x" && lines[0].ends_with(&["bin"]), "{listing}");
        assert!(lines[1][2] == "5" && lines[1].ends_with(&["bin/a"]), "{listing}");
        assert!(lines[2].ends_with(&["bin/b", "->", "a"]), "{listing}");
    }
}
