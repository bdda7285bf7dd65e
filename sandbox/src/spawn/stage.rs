//! The memory of the stage: a file with its encoded steps and its note to this process.

use std::ffi::CStr;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::child::Note;
use crate::error::Error;

/// Makes a memory file that starts with these bytes.
pub(super) fn memory_file(name: &CStr, bytes: &[u8]) -> Result<File, Error> {
    let what = "make a file in memory for the child";
    let file = memfd_create(name, MFdFlags::MFD_CLOEXEC)
        .map(File::from)
        .map_err(|e| Error::call("process", what, "memfd_create", e as i32))?;
    if !bytes.is_empty() {
        file.write_all_at(bytes, 0).map_err(|e| Error::io("process", what, "pwrite64", &e))?;
    }
    Ok(file)
}

/// Reads the note at the start of the stage's memory.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn read_note(blob: &File) -> Result<Note, Error> {
    let mut bytes = [0; size_of::<Note>()];
    match blob.read_exact_at(&mut bytes, 0) {
        Ok(()) => {
            let [failure, executes] = [0, 8].map(|at| std::array::from_fn(|n| bytes[at + n]));
            Ok(Note { failure, executes: u64::from_ne_bytes(executes) })
        }
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(Note::default()),
        Err(e) => Err(Error::io("process", "read the child's note about its last step", "pread64", &e)),
    }
}
