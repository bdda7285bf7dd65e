//! `nspod cp`: copies files between the host and a running container.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::json;

use crate::copy::{self, Side};
use crate::error::{Error, Result};
use crate::output;
use crate::state::Store;

#[derive(Debug, Args)]
pub(crate) struct CpArgs {
    /// Follow a symbolic link that SRC names. Links in a directory are always copied as links
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Keep owners and modes. nspod always keeps them; scripts for docker use this flag
    #[arg(short = 'a', long = "archive")]
    _archive: bool,
    /// File or directory to copy: a path of the host, or NAME:PATH in the container NAME
    #[arg(value_name = "SRC")]
    source: OsString,
    /// Place of the copy, in the same form. If it is a directory, the copy is in it. `SRC/.` copies what is in
    /// the directory SRC
    #[arg(value_name = "DST")]
    destination: OsString,
}

pub(crate) fn cp(args: &CpArgs, json: bool) -> Result<()> {
    for side in [&args.source, &args.destination] {
        if side == "-" {
            let problem = "`nspod cp` does not read or write tar archives: use `nspod exec NAME tar -c DIR`";
            return Err(Error::usage("SRC", problem));
        }
    }
    let (from, to) = (Place::parse(&args.source)?, Place::parse(&args.destination)?);
    let (source, destination) = match (from, to) {
        (Place::Container(name, path), Place::Host(to)) => {
            ((open(name)?, rooted(path)), (Side::host(), to.into()))
        }
        (Place::Host(from), Place::Container(name, path)) => {
            ((Side::host(), from.into()), (open(name)?, rooted(path)))
        }
        (Place::Host(_), Place::Host(_)) => {
            let problem = "SRC or DST must be in a container: write NAME:PATH";
            return Err(Error::usage("SRC", problem));
        }
        (Place::Container(..), Place::Container(..)) => {
            let problem = "SRC and DST are both in a container: copy to the host first. A path of the host with a \
                           colon begins with / or ./";
            return Err(Error::usage("DST", problem));
        }
    };
    copy::copy((&source.0, &source.1), (&destination.0, &destination.1), args.follow_link)?;
    let text = |operand: &OsStr| operand.to_string_lossy().into_owned();
    match json {
        true => {
            output::json(&json!({ "source": text(&args.source), "destination": text(&args.destination) }))
        }
        false => Ok(()),
    }
}

/// An operand.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    Host(&'a Path),
    Container(&'a str, &'a Path),
}

impl Place<'_> {
    /// Parses an operand. As in docker, a path that begins with `/` or `.` is one of the host.
    fn parse(text: &OsStr) -> Result<Place<'_>> {
        let bytes = text.as_bytes();
        let colon = bytes.iter().position(|b| *b == b':');
        match (bytes.first(), colon) {
            (None, _) => Err(Error::usage("SRC", "a path of `nspod cp` is empty")),
            (Some(b'/' | b'.' | b':'), _) | (_, None) => Ok(Place::Host(Path::new(text))),
            (_, Some(at)) => {
                let name = std::str::from_utf8(&bytes[..at])
                    .map_err(|_| Error::usage("SRC", "the name of the container is not valid"))?;
                Ok(Place::Container(name, Path::new(OsStr::from_bytes(&bytes[at + 1..]))))
            }
        }
    }
}

/// Returns a path in a container. It is relative to the root.
fn rooted(path: &Path) -> PathBuf {
    Path::new("/").join(path)
}

/// Opens the files of a running container.
fn open(name: &str) -> Result<Side> {
    let entry = Store::open()?.find(name)?;
    let container = entry.open().map_err(|e| match entry.lives() {
        Ok(false) => e.hint("`nspod cp` copies from and to running containers"),
        _ => e,
    })?;
    let side = Side::container(entry.id(), container.pid())?;
    // Another process can have the pid now.
    match container.pidfd().poll(Some(Duration::ZERO))? {
        false => Ok(side),
        true => Err(Error::state("cp", entry.id(), format!("the container {} has just ended", entry.id()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_named_before_a_colon() {
        let parse = |text: &'static str| Place::parse(text.as_ref()).unwrap();
        assert_eq!(parse("web:/etc/x"), Place::Container("web", Path::new("/etc/x")));
        assert_eq!(parse("web:x:y"), Place::Container("web", Path::new("x:y")));
        for host in ["x", "/web:x", "./web:x", "../web:x", ":x"] {
            assert_eq!(parse(host), Place::Host(Path::new(host)));
        }
        assert!(Place::parse("".as_ref()).is_err());
        assert_eq!(rooted(Path::new("")), Path::new("/"));
        assert_eq!(rooted(Path::new("x/.")).as_os_str(), "/x/.");
    }
}
