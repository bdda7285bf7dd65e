//! The standard streams of a container, by the names that criu gives to files outside the container.
//!
//! The names are recorded when the container is created. At a checkpoint a process may have redirected its
//! output, and another descriptor may lead to the file outside.

use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, StatxFlags, statx};
use rustix::stdio;

/// Returns the names of the standard streams of this process, which the container inherits. A name is empty if
/// criu needs none.
pub(crate) fn names() -> Vec<String> {
    [stdio::stdin(), stdio::stdout(), stdio::stderr()].map(name).into()
}

/// Returns whether this is the name of a file or a pipe, which criu connects to another one in a restore.
pub(crate) fn is_outside(name: &str) -> bool {
    name.starts_with("pipe:") || name.starts_with("file[")
}

/// Returns the id of the mount in the name of a file.
pub(crate) fn mount_id(name: &str) -> Option<u64> {
    let (id, _) = name.strip_prefix("file[")?.split_once(':')?;
    u64::from_str_radix(id, 16).ok()
}

/// Returns the name of a stream. The mount id is from `STATX_MNT_ID`, since Linux 5.8.
fn name(stream: BorrowedFd<'_>) -> String {
    let wanted = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::MNT_ID;
    let Ok(stat) = statx(stream, c"", AtFlags::EMPTY_PATH, wanted) else { return String::new() };
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::Fifo => format!("pipe:[{}]", stat.stx_ino),
        FileType::Socket => String::new(),
        _ => format!("file[{:x}:{:x}]", stat.stx_mnt_id, stat.stx_ino),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_stream_has_criu_s_name() {
        let file = tempfile::tempfile().unwrap();
        let named = name(file.as_fd());
        assert!(named.ends_with(&format!(":{:x}]", file.metadata().unwrap().ino())), "{named}");
        let info =
            std::fs::read(format!("/proc/self/fdinfo/{}", std::os::fd::AsRawFd::as_raw_fd(&file))).unwrap();
        assert_eq!(mount_id(&named), ns_core::proc::number(&info, "mnt_id"));
        let (reader, _writer) = std::io::pipe().unwrap();
        let link = std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader)))
            .unwrap();
        assert_eq!(name(reader.as_fd()), link.to_str().unwrap());
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(name(socket.as_fd()), "");
        assert!(is_outside(&named) && !is_outside(""));
    }
}
