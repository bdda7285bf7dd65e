//! A terminal session under the control of a test.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use super::{Guard, NSPOD, end_of, eventually};

/// A pseudo-terminal on which a program runs as the leader of a session.
pub struct Terminal {
    master: File,
    slave: OwnedFd,
    screen: Arc<Mutex<Vec<u8>>>,
    child: Guard,
    before: Termios,
    /// Number of bytes of the screen that have been matched.
    seen: usize,
}

impl Terminal {
    /// Starts nspod on a terminal of 24 rows and 80 columns.
    pub fn nspod(args: &[&str]) -> Terminal {
        Terminal::of(Command::new(NSPOD).args(args))
    }

    /// Starts a program with its arguments and variables on such a terminal.
    pub fn of(program: &Command) -> Terminal {
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(program.get_program()).args(program.get_args());
        command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(name, flags, Mode::empty()).unwrap();
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).unwrap();
        let before = tcgetattr(&slave).unwrap();
        let copy = || slave.try_clone().unwrap();
        let child = command.env("TERM", "dumb").stdin(copy()).stdout(copy()).stderr(copy()).spawn().unwrap();
        let (master, screen) = (File::from(master), Arc::new(Mutex::new(Vec::new())));
        let (mut reader, shown) = (master.try_clone().unwrap(), screen.clone());
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                shown.lock().unwrap().extend_from_slice(&buffer[..n]);
            }
        });
        Terminal { master, slave, screen, child: Guard(child), before, seen: 0 }
    }

    /// Closes the terminal as the closing of a window would. Returns the program.
    pub fn hang_up(self) -> Guard {
        // The reader keeps a copy of the master, so dropping this one causes no hangup. Send the signal that
        // the kernel would send.
        let leader = nix::unistd::Pid::from_raw(self.child.0.id() as i32);
        drop((self.master, self.slave));
        nix::sys::signal::kill(leader, nix::sys::signal::Signal::SIGHUP).unwrap();
        self.child
    }

    pub fn child(&self) -> &Child {
        &self.child.0
    }

    pub fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).unwrap();
    }

    /// Waits until the text is shown after the previously matched text.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let (screen, seen) = (self.screen.clone(), self.seen);
        let find = || {
            let screen = screen.lock().unwrap();
            let rest = &screen[seen..];
            rest.windows(text.len()).position(|w| w == text.as_bytes()).map(|at| seen + at + text.len())
        };
        let mut found = None;
        let what = || format!("{text:?} on the screen, which ends so: {:?}", self.tail());
        let start = std::time::Instant::now();
        while found.is_none() {
            assert!(start.elapsed() < super::PATIENCE, "this did not happen: {}", what());
            found = find();
            thread::sleep(std::time::Duration::from_millis(10));
        }
        self.seen = found.unwrap();
    }

    fn tail(&self) -> String {
        let shown = self.shown();
        shown.chars().skip(shown.chars().count().saturating_sub(1000)).collect()
    }

    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }

    /// Waits for the program's end, and checks that the terminal settings are restored.
    #[track_caller]
    pub fn end(&mut self) -> i32 {
        let status = end_of(&mut self.child.0);
        assert_eq!(format!("{:?}", self.now()), format!("{:?}", self.before), "the terminal is left changed");
        status.code().unwrap_or(-1)
    }

    /// Returns the current settings of the terminal.
    pub fn now(&self) -> Termios {
        tcgetattr(&self.slave).unwrap()
    }

    pub fn is_raw(&self) -> bool {
        !self.now().local_modes.contains(rustix::termios::LocalModes::ICANON)
    }

    #[track_caller]
    pub fn wait_until_raw(&self) {
        eventually("the terminal is raw", || self.is_raw());
    }
}
