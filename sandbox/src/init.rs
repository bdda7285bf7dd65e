//! The embedded init: a program of a few kilobytes that is pid 1 of a container.
//!
//! It starts the container's program, forwards signals to it, reaps orphans, records the exit
//! status of the program, and ends with the same status. It is executed from a sealed memory file,
//! so that the container cannot reach a file of the host through `/proc/1/exe`.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use ns_core::ExitStatus;

use crate::error::Error;
use crate::fd::duplicate_above;

/// The executable for this machine.
const IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/nspod-init"));

/// The executable as a sealed memory file, made once in this process, and whether its mode is
/// sealed too.
static SEALED: OnceLock<(OwnedFd, bool)> = OnceLock::new();

/// Returns a descriptor of the sealed file. Its number is at least `above`.
pub(crate) fn image(above: i32) -> Result<OwnedFd, Error> {
    duplicate_above(&shared()?.0, above)
}

/// Returns a sealed file for one start, if the kernel cannot seal the mode of a file (before Linux 6.3). On
/// such a kernel a container could remove the execute bit of the shared file, and the next start would
/// fail.
pub(crate) fn image_for_one(above: i32) -> Result<Option<OwnedFd>, Error> {
    match shared()?.1 {
        true => Ok(None),
        false => duplicate_above(&seal()?.0, above).map(Some),
    }
}

fn shared() -> Result<&'static (OwnedFd, bool), Error> {
    match SEALED.get() {
        Some(sealed) => Ok(sealed),
        None => {
            let made = seal()?;
            Ok(SEALED.get_or_init(|| made))
        }
    }
}

fn seal() -> Result<(OwnedFd, bool), Error> {
    let failed = |call| move |e: Errno| Error::call("setup", "make the init's file", call, e as i32);
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Since Linux 6.3.
    const MFD_EXEC: libc::c_uint = 0x10;
    let executable = MFdFlags::from_bits_retain(MFD_EXEC);
    let (fd, mode) = match memfd_create(c"nspod-init", flags | executable) {
        Err(Errno::EINVAL) => (memfd_create(c"nspod-init", flags), SealFlag::empty()),
        made => (made, SealFlag::from_bits_retain(libc::F_SEAL_EXEC)),
    };
    let fd = fd.map_err(failed("memfd_create"))?;
    let mut file = File::from(fd);
    file.write_all(IMAGE).map_err(|e| Error::io("setup", "write the init's file", "write", &e))?;
    let seals =
        SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals | mode)).map_err(failed("fcntl"))?;
    Ok((file.into(), !mode.is_empty()))
}

/// Makes the file in which the init records the exit status of the program.
pub(crate) fn exit_file() -> Result<File, Error> {
    memfd_create(c"nspod-exit", MFdFlags::MFD_CLOEXEC)
        .map(File::from)
        .map_err(|e| Error::call("setup", "make the file for the exit status", "memfd_create", e as i32))
}

/// Reads the exit status that the init has recorded. Returns `None` if there is none yet.
pub fn read_exit(file: &File) -> Option<ExitStatus> {
    let mut text = [0; 64];
    let length = file.read_at(&mut text, 0).ok()?;
    parse_exit(std::str::from_utf8(text.get(..length)?).ok()?)
}

/// Parses the init's record: `exited 3`, `signaled 9` or `signaled 6 core`, and a line feed.
pub fn parse_exit(text: &str) -> Option<ExitStatus> {
    let line = text.strip_suffix('\n')?;
    let mut words = line.split(' ');
    let (how, number) = (words.next()?, words.next()?.parse().ok()?);
    match (how, words.next()) {
        ("exited", None) => Some(ExitStatus::Exited(number)),
        ("signaled", core @ (None | Some("core"))) => {
            Some(ExitStatus::Signaled { signal: number, core_dumped: core.is_some() })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_numbers_that_the_init_reports_are_the_librarys() {
        use crate::step::Call;
        assert_eq!([Call::Clone3, Call::Openat2, Call::Write, Call::Execve].map(|c| c as u8), [3, 5, 6, 41]);
    }

    #[test]
    fn the_recorded_end_is_read_back() {
        assert_eq!(parse_exit("exited 3\n"), Some(ExitStatus::Exited(3)));
        assert_eq!(
            parse_exit("signaled 6 core\n"),
            Some(ExitStatus::Signaled { signal: 6, core_dumped: true })
        );
        assert_eq!(parse_exit("signaled 9\n"), Some(ExitStatus::Signaled { signal: 9, core_dumped: false }));
        for broken in ["", "exited 3", "exited\n", "exited x\n", "signaled 9 care\n", "left 1\n"] {
            assert_eq!(parse_exit(broken), None, "{broken:?}");
        }
    }
}
