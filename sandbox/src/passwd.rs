//! Looks up users and groups by name, in the container's own `/etc/passwd` and `/etc/group`:
//! passwd(5), group(5).
//!
//! The image controls these files. They are opened beneath the container's root, and only regular
//! files are read.

use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind};
use crate::spec::{Process, Root, User};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, SFlag, fstat};

/// An account in `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Ids, and the groups that list the account as a member.
    pub user: User,
    /// Home directory, or `None` if the account is not in the file.
    pub home: Option<String>,
}

/// Looks up `USER[:GROUP]`, each by number or name. A number is always an id, also if the image has a user of
/// that name. The first root that has the file is used.
/// See [passwd(5)](https://man7.org/linux/man-pages/man5/passwd.5.html) and
/// [group(5)](https://man7.org/linux/man-pages/man5/group.5.html).
///
/// # Errors
/// [`ErrorKind::NotFound`]: the name does not exist. [`ErrorKind::InvalidInput`]: the file is not a
/// regular file or is larger than 16 MiB, or a number is larger than an id can be. `EACCES`: the file
/// cannot be read.
pub fn find(text: &str, roots: &[PathBuf]) -> Result<Account, Error> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    check_number("user", user)?;
    let passwd = read(roots, "etc/passwd")?;
    let entry = passwd.lines().find_map(|line| account(line, user));
    let (uid, own_gid, home) = match (entry, user.parse()) {
        (Some((uid, gid, home)), _) => (uid, gid, Some(home.to_owned())),
        (None, Ok(uid)) => (uid, 0, None),
        (None, Err(_)) => return Err(unknown("user", user, "/etc/passwd")),
    };
    let name = passwd.lines().find(|line| account(line, user).is_some()).and_then(|l| l.split(':').next());
    let mut found = User { uid, gid: own_gid, groups: Vec::new() };
    match group {
        Some(group) => found.gid = gid(group, roots)?,
        None => {
            let groups = read(roots, "etc/group")?;
            found.groups = name.map_or(Vec::new(), |name| member_of(&groups, name));
        }
    }
    Ok(Account { user: found, home })
}

/// Sets `HOME` to the home directory of the process's user, unless the environment has a non-empty
/// value.
/// See [passwd(5)](https://man7.org/linux/man-pages/man5/passwd.5.html).
///
/// # Errors
/// The same as [`find`]. In this case `HOME` is set to `/`.
pub fn set_home(process: &mut Process, roots: &[PathBuf]) -> Result<(), Error> {
    let home = process.env.iter().rev().find(|(name, _)| name == "HOME");
    if home.is_some_and(|(_, home)| !home.is_empty()) {
        return Ok(());
    }
    let user = process.user.clone().unwrap_or_default();
    let found = find(&format!("{}:{}", user.uid, user.gid), roots);
    let home = found.as_ref().ok().and_then(|found| found.home.clone());
    process.env.push(("HOME".into(), home.unwrap_or_else(|| "/".into()).into()));
    found.map(drop)
}

/// Looks up a group by number or name.
/// See [group(5)](https://man7.org/linux/man-pages/man5/group.5.html).
///
/// # Errors
/// The same as [`find`].
pub fn gid(text: &str, roots: &[PathBuf]) -> Result<u32, Error> {
    check_number("group", text)?;
    if let Ok(gid) = text.parse() {
        return Ok(gid);
    }
    let groups = read(roots, "etc/group")?;
    let found = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == text).then_some(())?;
        fields.nth(1)?.parse().ok()
    });
    found.ok_or_else(|| unknown("group", text, "/etc/group"))
}

/// Rejects a number that is too large for an id. It is not a name either.
fn check_number(what: &str, text: &str) -> Result<(), Error> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number || text.parse::<u32>().is_ok() {
        return Ok(());
    }
    let problem = format!("the {what} {text} is too large a number: an id is at most {}", u32::MAX - 1);
    Err(Error::new(ErrorKind::InvalidInput, "user", problem).on(text))
}

fn unknown(what: &str, name: &str, file: &str) -> Error {
    let problem =
        format!("the {what} {name:?} is not in the container's {file}: use a number, or add it to the file");
    Error::new(ErrorKind::NotFound, "user", problem).on(name)
}

fn failed(call: &'static str, path: &Path, errno: Errno) -> Error {
    let (call, what) = match call {
        "look at" => ("fstat", "inspect"),
        call => (call, call),
    };
    let path = path.display().to_string();
    Error::call("read", format!("{what} {path}"), call, errno as i32).on(path)
}

/// Returns uid, gid and home if the line has this name or number. A user whose name is a number, with uid 0,
/// must not turn an id into root (CVE-2016-3697).
fn account<'a>(line: &'a str, user: &str) -> Option<(u32, u32, &'a str)> {
    let mut fields = line.split(':');
    let (name, _, uid) = (fields.next()?, fields.next()?, fields.next()?);
    let (gid, home) = (fields.next()?.parse().ok()?, fields.nth(1)?);
    let uid: u32 = uid.parse().ok()?;
    let is_found = user.parse().map_or(name == user, |number: u32| uid == number);
    is_found.then_some((uid, gid, home))
}

/// Returns the groups that list this name as a member.
fn member_of(groups: &str, name: &str) -> Vec<u32> {
    let gid = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [_, _, gid, members] = fields[..] else { return None };
        members.split(',').any(|m| m == name).then(|| gid.parse().ok())?
    };
    groups.lines().filter_map(gid).collect()
}

/// Returns the directories of the host that contain the container's files, uppermost first.
pub fn roots(root: &Root) -> Vec<PathBuf> {
    match root {
        Root::Empty => Vec::new(),
        Root::Host | Root::HostReadOnly => vec!["/".into()],
        Root::Dir { path, .. } => vec![path.clone()],
        Root::Overlay { lower, writes, .. } => {
            let upper = match writes {
                crate::spec::Writes::Dir { upper, .. } => Some(upper.clone()),
                _ => None,
            };
            upper.into_iter().chain(lower.iter().cloned()).collect()
        }
    }
}

/// Maximum size of a file in bytes.
const MOST: u64 = 16 << 20;

/// Reads a file below the first root that has it. Links in its path are resolved within the root.
/// Returns an empty text if no root has the file.
fn read(roots: &[PathBuf], file: &str) -> Result<String, Error> {
    for root in roots {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = open(root.as_path(), flags, Mode::empty()).map_err(|e| failed("open", root, e))?;
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        match openat2(&dir, file, how) {
            Ok(at) => return read_regular(&at, &root.join(file)),
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(e) => return Err(failed("open", &root.join(file), e)),
        }
    }
    Ok(String::new())
}

/// Reads a regular file by its `O_PATH` descriptor. Opening any other file could block or have an
/// effect on the host.
fn read_regular(at: &OwnedFd, path: &Path) -> Result<String, Error> {
    let stat = fstat(at).map_err(|e| failed("look at", path, e))?;
    let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
    if kind == SFlag::S_IFCHR && stat.st_rdev == 0 {
        // This is a whiteout, with which an overlay marks a removed file.
        return Ok(String::new());
    }
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let problem = match kind {
        SFlag::S_IFREG if size <= MOST => None,
        SFlag::S_IFREG => Some(format!("it has {size} bytes, more than the maximum of {MOST}")),
        _ => Some("it is not a regular file".into()),
    };
    if let Some(problem) = problem {
        let sentence = format!("cannot read {}: {problem}: replace it in the image", path.display());
        return Err(Error::new(ErrorKind::InvalidInput, "read", sentence).on(path.display().to_string()));
    }
    // A file of procfs may be endless, or reading it may block. Its size is 0.
    if size == 0 {
        return Ok(String::new());
    }
    let again = format!("/proc/thread-self/fd/{}", at.as_raw_fd());
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let fd = open(again.as_str(), flags, Mode::empty()).map_err(|e| failed("open", path, e))?;
    let mut text = Vec::new();
    std::fs::File::from(fd)
        .take(size)
        .read_to_end(&mut text)
        .map_err(|e| failed("read", path, Errno::from_raw(e.raw_os_error().unwrap_or(0))))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> (tempfile::TempDir, Vec<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:Web:/srv:/bin/false\nbroken\n";
        std::fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
        std::fs::write(dir.path().join("etc/group"), "root:x:0:\nlogs:x:50:web,other\nwww:x:34:\n").unwrap();
        let roots = vec![dir.path().to_owned()];
        (dir, roots)
    }

    fn user(uid: u32, gid: u32, groups: &[u32]) -> User {
        User { uid, gid, groups: groups.into() }
    }

    #[test]
    fn user_names_come_from_the_containers_passwd() {
        let (_dir, roots) = image();
        let find = |text| find(text, &roots).unwrap();
        assert_eq!(find("web"), Account { user: user(33, 34, &[50]), home: Some("/srv".into()) });
        assert_eq!(find("33").user, user(33, 34, &[50]));
        assert_eq!(find("web:logs").user, user(33, 50, &[]));
        assert_eq!(find("web:7").user, user(33, 7, &[]));
        assert_eq!(find("1000"), Account { user: user(1000, 0, &[]), home: None });
        assert_eq!(find("1000:1001").user, user(1000, 1001, &[]));
    }

    #[test]
    fn a_number_is_an_id_and_not_the_name_of_a_user() {
        let (dir, roots) = image();
        let passwd = "33:x:0:0::/root:/bin/sh\nweb:x:33:34:Web:/srv:/bin/false\n";
        std::fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
        let web = Account { user: user(33, 34, &[50]), home: Some("/srv".into()) };
        assert_eq!(find("33", &roots).unwrap(), web);
        assert_eq!(find("033", &roots).unwrap(), web);
    }

    #[test]
    fn a_missing_name_is_named_in_the_error() {
        let (_dir, roots) = image();
        let error = find("nginx", &roots).unwrap_err().to_string();
        assert_eq!(
            error,
            "the user \"nginx\" is not in the container's /etc/passwd: use a number, or add it to the file"
        );
        nspod_testkit::assert_refused(find("web:nginx", &roots), "nginx");
        nspod_testkit::assert_refused(find("", &roots), "\"\"");
    }

    #[test]
    fn a_link_in_the_image_does_not_lead_to_the_host() {
        let (dir, roots) = image();
        std::fs::remove_file(dir.path().join("etc/passwd")).unwrap();
        std::os::unix::fs::symlink("/etc/hostpasswd", dir.path().join("etc/passwd")).unwrap();
        std::fs::write(dir.path().join("etc/hostpasswd"), "inner:x:5:5::/:\n").unwrap();
        assert_eq!(find("inner", &roots).unwrap().user.uid, 5);
    }

    #[test]
    fn only_a_regular_file_is_opened() {
        let (dir, roots) = image();
        let passwd = dir.path().join("etc/passwd");
        let replace = |make: &dyn Fn()| {
            std::fs::remove_file(&passwd).unwrap();
            make();
            find("1000", &roots).map_err(|e| e.to_string())
        };
        let not_regular =
            format!("cannot read {}: it is not a regular file: replace it in the image", passwd.display());
        let found = replace(&|| nix::unistd::mkfifo(&passwd, Mode::S_IRWXU).unwrap());
        assert_eq!(found.unwrap_err(), not_regular);
        let found = replace(&|| drop(std::os::unix::net::UnixListener::bind(&passwd).unwrap()));
        assert_eq!(found.unwrap_err(), not_regular);
        let found = replace(&|| std::fs::File::create(&passwd).unwrap().set_len(MOST + 1).unwrap());
        assert!(found.unwrap_err().contains("more than the maximum of 16777216"));
        // This is a regular file whose read(2) waits for kernel messages.
        let file = open("/proc/kmsg", OFlag::O_PATH, Mode::empty()).unwrap();
        assert_eq!(read_regular(&file, &passwd).unwrap(), "");
    }
}
