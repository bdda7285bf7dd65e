//! The disk below [`DATA`].

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use super::{DATA, Hog, Victim};

const CHUNK: usize = 64 << 10;

/// Returns a chunk whose address suits O_DIRECT.
fn chunk() -> (Vec<u8>, usize) {
    let bytes = vec![7; CHUNK + 4096];
    let skip = bytes.as_ptr().align_offset(4096);
    (bytes, skip)
}

fn direct(name: &str) -> io::Result<File> {
    File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(libc::O_DIRECT)
        .open(format!("{DATA}/{name}"))
}

/// Writes past the page cache, over and over the same chunk.
pub(super) fn rate_hog() -> io::Result<Hog> {
    Hog::repeats(4, |thread| {
        let file = direct(&format!("hog-{thread}"))?;
        let (bytes, skip) = chunk();
        for _ in 0..16 {
            file.write_all_at(&bytes[skip..][..CHUNK], 0)?;
        }
        Ok(())
    })
}

pub(super) fn rate_victim() -> io::Result<Victim> {
    let file = direct("victim")?;
    let (bytes, skip) = chunk();
    Ok(Victim::works(50, move || file.write_all_at(&bytes[skip..][..CHUNK], 0)))
}

fn write_and_sync(file: &File) -> io::Result<()> {
    file.write_all_at(&[7; 4096], 0)?;
    file.sync_data()
}

pub(super) fn fsync_hog() -> io::Result<Hog> {
    Hog::repeats(4, |thread| {
        let file = File::create(format!("{DATA}/hog-{thread}"))?;
        (0..16).try_for_each(|_| write_and_sync(&file))
    })
}

pub(super) fn fsync_victim() -> io::Result<Victim> {
    let file = File::create(format!("{DATA}/victim"))?;
    Ok(Victim::works(35, move || write_and_sync(&file)))
}
