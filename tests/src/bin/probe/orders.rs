//! The orders.

use std::fs::{self, File};
use std::io::{Error, Result};
use std::os::unix::fs::FileExt;

use nix::mount::{MsFlags, mount};
use nix::sys::{ptrace, resource, signal::Signal, uio};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, gethostname, getpid, getuid, pause, sethostname};

use crate::{ipc, sys};

/// A secret that other processes must not be able to read.
static SECRET: [u8; 6] = *b"secret";

/// The state that orders share.
#[derive(Debug, Default)]
pub(crate) struct State {
    listeners: ipc::Listeners,
    /// Allocated memory.
    held: Vec<Vec<u8>>,
}

impl State {
    /// Executes the order in a line.
    #[expect(clippy::too_many_lines, reason = "a plain match with about one line an arm")]
    pub(crate) fn obey(&mut self, line: &str) -> Result<String> {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["ping"] => Ok("pong".into()),
            ["pid"] => Ok(getpid().to_string()),
            ["uid"] => Ok(getuid().to_string()),
            ["hostname"] => Ok(gethostname()?.to_string_lossy().into_owned()),
            ["set-hostname", name] => done(sethostname(name)),
            ["kill", pid, signal] => {
                // nix does not accept the number 0 as a signal.
                let signal: Option<Signal> = match number::<i32>(signal)? {
                    0 => None,
                    n => Some(n.try_into()?),
                };
                done(nix::sys::signal::kill(Pid::from_raw(number(pid)?), signal))
            }
            ["secret"] => {
                // Yama must not decide whether tracing is allowed.
                sys::let_anyone_trace();
                Ok((&raw const SECRET).addr().to_string())
            }
            ["ptrace", pid] => done(ptrace::seize(Pid::from_raw(number(pid)?), ptrace::Options::empty())),
            ["read-memory", pid, address] => {
                let mut text = [0; 6];
                let len = File::open(format!("/proc/{pid}/mem"))?.read_at(&mut text, number(address)?)?;
                Ok(String::from_utf8_lossy(&text[..len]).into_owned())
            }
            ["write-memory", pid, address] => {
                let file = File::options().write(true).open(format!("/proc/{pid}/mem"))?;
                Ok(file.write_at(b"broken", number(address)?)?.to_string())
            }
            ["process-vm", pid, address] => {
                let mut text = [0; 6];
                let remote = uio::RemoteIoVec { base: number(address)?, len: text.len() };
                let mut local = [std::io::IoSliceMut::new(&mut text)];
                uio::process_vm_readv(Pid::from_raw(number(pid)?), &mut local, &[remote])?;
                Ok(String::from_utf8_lossy(&text).into_owned())
            }
            ["shm", "make", key] => text(&sys::shm(number(key)?, Some(*b"secret\0\0"))?),
            ["shm", "read", key] => text(&sys::shm(number(key)?, None)?),
            ["sem", what, key] => shown(sys::sem(number(key)?, *what == "make")),
            ["msg", what, key] => shown(sys::msg(number(key)?, *what == "make")),
            ["mq", what, name] => ipc::mq(name, *what == "make"),
            ["posix-shm", what, name] => ipc::posix_shm(name, *what == "make"),
            ["abstract", "listen", name] => self.listeners.unix(name).map(|()| String::new()),
            ["abstract", "connect", name] => ipc::connect_unix(name).map(|_| String::new()),
            ["tcp", "listen", port] => self.listeners.tcp(number(port)?).map(|()| String::new()),
            ["tcp", "connect", port] => ipc::connect_tcp(number(port)?).map(|_| String::new()),
            ["write", path, text] => fs::write(path, text).map(|()| String::new()),
            ["read", path] => fs::read_to_string(path),
            ["list", path] => {
                let names: Result<Vec<_>> = fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect();
                let names: Vec<_> = names?.iter().map(|name| name.to_string_lossy().into_owned()).collect();
                Ok(names.join(" "))
            }
            ["link", path] => Ok(fs::read_link(path)?.to_string_lossy().into_owned()),
            ["open-for-writing", path] => File::options().write(true).open(path).map(|_| String::new()),
            ["chdir", path] => std::env::set_current_dir(path).map(|()| String::new()),
            ["mkdir", path] => fs::create_dir(path).map(|()| String::new()),
            ["mount-tmpfs", path] => {
                done(mount(Some("tmpfs"), *path, Some("tmpfs"), MsFlags::empty(), None::<&str>))
            }
            ["clock"] => Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.tv_sec().to_string()),
            ["set-tick"] => shown(sys::set_tick()),
            ["set-monotonic"] => shown(sys::set_monotonic()),
            ["drop-groups"] => done(nix::unistd::setgroups(&[])),
            ["fork", many] => self.fork(number(many)?),
            ["spin"] => match sys::fork()? {
                Some(pid) => Ok(pid.to_string()),
                None => {
                    leave_the_pipes();
                    loop {
                        std::hint::spin_loop();
                    }
                }
            },
            ["hold", bytes] => {
                // The kernel provides memory only when it is written to.
                self.held.push(vec![1; number(bytes)?]);
                Ok(String::new())
            }
            ["cpu-time"] => {
                let usage = resource::getrusage(resource::UsageWho::RUSAGE_SELF)?;
                Ok((usage.user_time() + usage.system_time()).to_string())
            }
            ["exit", code] => std::process::exit(number(code)?),
            _ => Err(Error::from_raw_os_error(libc::EINVAL)),
        }
    }

    /// Makes this many processes that wait to be killed, or fewer if the kernel refuses more.
    fn fork(&mut self, many: u32) -> Result<String> {
        for made in 0..many {
            match sys::fork() {
                Ok(Some(_)) => {}
                Ok(None) => {
                    leave_the_pipes();
                    loop {
                        pause();
                    }
                }
                Err(error) if made == 0 => return Err(error),
                Err(_) => return Ok(made.to_string()),
            }
        }
        Ok(many.to_string())
    }
}

/// Closes the connection of the parent in a child, so that the parent's end is noticed while the child lives.
fn leave_the_pipes() {
    for fd in [0, 1] {
        let _ = nix::unistd::close(fd);
    }
}

fn number<T: std::str::FromStr>(word: &str) -> Result<T> {
    word.parse().map_err(|_| Error::from_raw_os_error(libc::EINVAL))
}

fn text(bytes: &[u8; 8]) -> Result<String> {
    Ok(String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned())
}

fn done(result: nix::Result<()>) -> Result<String> {
    result.map(|()| String::new()).map_err(Error::from)
}

fn shown(result: Result<i32>) -> Result<String> {
    result.map(|n| n.to_string())
}
