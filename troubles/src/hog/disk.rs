//! The disk below [`DATA`].

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;

use super::act::{DATA, Hog, Victim};

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
    let files = (0..4).map(|thread| File::create(format!("{DATA}/hog-{thread}")));
    let files = Arc::new(files.collect::<io::Result<Vec<_>>>()?);
    Hog::repeats(files.len(), move |thread| write_and_sync(&files[thread]))
}

pub(super) fn fsync_victim() -> io::Result<Victim> {
    let file = File::create(format!("{DATA}/victim"))?;
    Ok(Victim::works(32, move || write_and_sync(&file)))
}

/// Writes until the disk is full.
pub(super) fn space_hog() -> io::Result<Hog> {
    let mut file = File::create(format!("{DATA}/hog"))?;
    let mut written = 0;
    let why = loop {
        match file.write_all(&[7; CHUNK]) {
            Ok(()) => written += CHUNK,
            Err(error) => break error,
        }
    };
    Ok(Hog::holds(format!("{} KiB, then: {why}", written >> 10), file))
}

/// Writes a file and removes it.
pub(super) fn space_victim() -> io::Result<Victim> {
    let path = format!("{DATA}/victim");
    Ok(Victim::tries(move || fs::write(&path, [7; CHUNK]).and(fs::remove_file(&path))))
}

/// Prints more than the disk holds.
pub(super) fn log_hog() -> io::Result<Hog> {
    let mut output = io::stdout().lock();
    for _ in 0..512 {
        // A full disk may refuse it.
        let _ = output.write_all(&[b'x'; CHUNK]);
    }
    Ok(Hog::holds("32 MiB of output", ()))
}

/// Makes empty files until there are no more inodes.
pub(super) fn inode_hog() -> io::Result<Hog> {
    let mut made = 0;
    let why = loop {
        match File::create(format!("{DATA}/hog-{made}")) {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
    };
    Ok(Hog::holds(format!("{made} files, then: {why}"), ()))
}

/// Makes an empty file and removes it.
pub(super) fn inode_victim() -> io::Result<Victim> {
    let path = format!("{DATA}/victim");
    Ok(Victim::tries(move || File::create(&path).and_then(|_| fs::remove_file(&path))))
}
