//! Interactive sessions at a terminal.

mod common;

use common::terminal::Terminal;
use common::user::User;
use common::{NSPOD, Name, alone, end_of, eventually, nspod, ok, root, signal};

const BASH: [&str; 4] = ["bash", "--norc", "--noprofile", "-i"];

fn shell(flags: &[&str]) -> Terminal {
    let mut terminal = Terminal::nspod(&[&["run", "-it", "-e", "PS1=inside> "], flags, &BASH].concat());
    terminal.expect("inside> ");
    terminal
}

#[test]
fn a_shell_has_a_prompt_an_echo_and_an_end() {
    if !root() {
        return;
    }
    let mut terminal = shell(&["-h", "box"]);
    assert!(terminal.is_raw());
    terminal.type_in("echo $((40+2)) $(hostname) $(tty)\r");
    terminal.expect("echo $((40+2)) $(hostname) $(tty)\r\n");
    terminal.expect("42 box /dev/pts/0\r\n");
    terminal.expect("inside> ");
    terminal.type_in("exit 7\r");
    assert_eq!(terminal.end(), 7);
}

#[test]
fn end_of_file_ends_the_shell() {
    if !root() {
        return;
    }
    let mut terminal = shell(&[]);
    terminal.type_in("\x04");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn the_terminal_size_follows_the_callers() {
    if !root() {
        return;
    }
    let mut terminal = shell(&[]);
    terminal.type_in("stty size\r");
    terminal.expect("\r\n24 80\r\n");
    terminal.expect("inside> ");
    terminal.type_in("trap 'echo now $(stty size)' WINCH; echo set\r");
    terminal.expect("\r\nset\r\n");
    terminal.resize(50, 132);
    // bash runs the trap at the next command.
    eventually("the size is the new one", || {
        terminal.type_in(":\r");
        terminal.shown().contains("now 50 132")
    });
    terminal.type_in("exit\r");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn ctrl_c_ends_the_program_and_not_the_shell() {
    if !root() {
        return;
    }
    let mut terminal = shell(&[]);
    terminal.type_in("cat\r");
    terminal.expect("cat\r\n");
    terminal.type_in("seen\r");
    terminal.expect("seen\r\nseen\r\n");
    terminal.type_in("\x03");
    terminal.expect("^C");
    terminal.expect("inside> ");
    terminal.type_in("echo was $?\r");
    terminal.expect("\r\nwas 130\r\n");
    terminal.type_in("exit\r");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn ctrl_z_stops_a_job_and_fg_continues_it() {
    if !root() {
        return;
    }
    let mut terminal = shell(&[]);
    terminal.type_in("cat\r");
    terminal.expect("cat\r\n");
    terminal.type_in("one\r");
    terminal.expect("one\r\none\r\n");
    terminal.type_in("\x1a");
    terminal.expect("Stopped");
    terminal.expect("inside> ");
    terminal.type_in("jobs; fg\r");
    terminal.expect("Stopped");
    terminal.expect("cat\r\n");
    terminal.type_in("two\r");
    terminal.expect("two\r\ntwo\r\n");
    terminal.type_in("\x04");
    terminal.expect("inside> ");
    terminal.type_in("exit\r");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn large_output_arrives_complete() {
    if !root() {
        return;
    }
    let mut terminal = Terminal::nspod(&["run", "-it", "sh", "-c", "seq 1 20000; printf end"]);
    assert_eq!(terminal.end(), 0);
    let want: String = (1..=20_000).map(|n| format!("{n}\r\n")).chain(["end".into()]).collect();
    eventually("all is shown", || terminal.shown().len() >= want.len());
    assert!(terminal.shown() == want);
}

#[test]
fn exec_in_a_running_container_has_its_own_terminal() {
    if !root() {
        return;
    }
    let name = Name::detached(&["-h", "box"], &["sleep", "1000"]);
    let mut terminal = Terminal::nspod(&[&["exec", "-it", "-e", "PS1=in> ", &name], &BASH[..]].concat());
    terminal.expect("in> ");
    terminal.type_in("hostname; tty; stty size\r");
    terminal.expect("\r\nbox\r\n/dev/pts/0\r\n24 80\r\n");
    terminal.type_in("\x03");
    terminal.expect("in> ");
    terminal.type_in("exit 6\r");
    assert_eq!(terminal.end(), 6);
    assert_eq!(name.at(), "running");
}

#[test]
fn ctrl_c_is_a_signal_without_a_container_terminal() {
    if !root() {
        return;
    }
    let script = "trap 'echo asked; exit 8' INT; echo ready; while :; do sleep 0.02; done";
    let mut terminal = Terminal::nspod(&["run", "sh", "-c", script]);
    terminal.expect("ready");
    assert!(!terminal.is_raw());
    terminal.type_in("\x03");
    assert_eq!(terminal.end(), 8);
    terminal.expect("asked");
    // The text is shown only once.
    assert_eq!(terminal.shown().matches("asked").count(), 1);
    // Run the program without a shell: a shell catches the signal until it executes another program.
    let mut terminal = Terminal::nspod(&["run", "-i", "cat", "/proc/self/comm", "-"]);
    terminal.expect("cat");
    terminal.type_in("\x03");
    assert_eq!(terminal.end(), 130);
}

#[test]
fn the_terminal_is_restored_whatever_ends_the_command() {
    if !root() {
        return;
    }
    // The start fails after the terminal was examined.
    let mut failed = Terminal::nspod(&["run", "-it", "no-such-program"]);
    assert_eq!(failed.end(), 127);
    failed.expect("nspod: cannot execute no-such-program");
    // nspod itself receives a signal.
    let mut terminal = Terminal::nspod(&["run", "-it", "--init", "sh", "-c", "echo up; exec sleep 1000"]);
    terminal.expect("up");
    terminal.wait_until_raw();
    signal(terminal.child(), 15);
    assert_eq!(terminal.end(), 128 + 15);
    // Another process ends the container.
    let name = Name::container();
    let mut terminal =
        Terminal::nspod(&["run", "-it", "--name", &name, "sh", "-c", "echo up; exec sleep 1000"]);
    terminal.expect("up");
    ok(&["rm", "-f", &name]);
    assert_eq!(terminal.end(), 137);
    assert_eq!(terminal.shown(), "up\r\n");
}

#[test]
fn a_bare_program_stays_in_the_callers_job() {
    if !root() {
        return;
    }
    // Ctrl-C arrives once, and the shell can read from its terminal afterwards.
    let inside = "trap 'echo got it' INT; echo up; sleep 1000; echo again; sleep 1; echo left";
    let script = "trap : INT; $N run --bare sh -c \"$INSIDE\"; read line; echo the line is $line";
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", script]).env("N", NSPOD).env("INSIDE", inside);
    let mut terminal = Terminal::of(&shell);
    terminal.expect("up");
    terminal.type_in("\x03");
    terminal.expect("left");
    assert_eq!(terminal.shown().matches("got it").count(), 1, "{}", terminal.shown());
    terminal.type_in("word\r");
    terminal.expect("the line is word");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn a_hangup_of_the_terminal_ends_the_container() {
    if !root() {
        return;
    }
    let name = Name::container();
    let mut terminal =
        Terminal::nspod(&["run", "-it", "--name", &name, "sh", "-c", "echo up; exec sleep 1000"]);
    terminal.expect("up");
    let mut child = terminal.hang_up();
    assert_eq!(end_of(&mut child.0).code(), Some(128 + 1));
    assert!(!name.state().exists());
}

#[test]
fn only_table_headings_are_bold_at_a_terminal() {
    if !root() {
        return;
    }
    let mut terminal = Terminal::nspod(&["ps"]);
    assert_eq!(terminal.end(), 0);
    terminal.expect("\x1b[1mID");
    let plain = alone("NO_COLOR=1 script -qc '$N ps' /dev/null < /dev/null");
    assert_eq!(plain.out.trim_end(), "ID  STATUS  HOST PID  PID  POD  CREATED  COMMAND", "{NSPOD}");
}

/// The keys ctrl-p ctrl-q.
const LEAVE: &str = "\x10\x11";

#[track_caller]
fn leaves(mut terminal: Terminal, name: &str) {
    terminal.type_in(LEAVE);
    assert_eq!(terminal.end(), 0);
    terminal.expect(&format!("nspod: left the container {name}; `nspod attach {name}` returns to it"));
}

#[test]
fn a_container_is_left_with_keys_and_attach_returns_to_it() {
    if !root() {
        return;
    }
    let name = Name::container();
    let mut terminal = shell(&["--name", &name]);
    terminal.type_in("x=$((40+2))\r");
    terminal.expect("inside> ");
    leaves(terminal, &name);
    assert_eq!(name.at(), "running");
    let mut terminal = Terminal::nspod(&["attach", &name]);
    terminal.wait_until_raw();
    terminal.type_in("echo it is $x; stty size\r");
    terminal.expect("\r\nit is 42\r\n24 80\r\n");
    let second = nspod(&["attach", &name]);
    assert_eq!(second.code(), 125);
    assert!(second.err.contains("another `nspod attach` uses the terminal"), "{second:?}");
    leaves(terminal, &name);
    let renamed = Name::container();
    ok(&["rename", &name, &renamed]);
    let mut terminal = Terminal::nspod(&["attach", "--detach-keys", "none", &renamed]);
    terminal.wait_until_raw();
    terminal.type_in("exit 7\r");
    assert_eq!(terminal.end(), 7);
    eventually("the container is removed", || !renamed.state().exists());
    assert!(!common::cgroup(&name).exists());
}

#[test]
fn a_container_that_was_left_does_not_wait_for_its_terminal() {
    if !root() {
        return;
    }
    let name = Name::container();
    let script =
        "echo up; while [ ! -e /tmp/go ]; do sleep 0.05; done; seq 1 20000; : >/tmp/written; exec sleep 1000";
    let mut terminal = Terminal::nspod(&["run", "-it", "--name", &name, "sh", "-c", script]);
    terminal.expect("up");
    terminal.wait_until_raw();
    leaves(terminal, &name);
    ok(&["exec", &name, "touch", "/tmp/go"]);
    eventually("all is written", || nspod(&["exec", &name, "test", "-e", "/tmp/written"]).code() == 0);
    let mut terminal = Terminal::nspod(&["attach", &name]);
    terminal.expect("\r\n19999\r\n20000\r\n");
    assert!(!terminal.shown().contains("\n1\r\n"), "only the end is kept");
    terminal.wait_until_raw();
    ok(&["rm", "-f", &name]);
    assert_eq!(terminal.end(), 137);
}

#[test]
fn a_container_that_cannot_be_left_continues_at_its_terminal() {
    if !root() {
        return;
    }
    let name = Name::container();
    let mut terminal = shell(&["--name", &name]);
    // The socket of the keeper cannot have this name.
    let taken = name.state().join("terminal");
    std::fs::write(&taken, "").unwrap();
    terminal.type_in(LEAVE);
    terminal.expect("nspod: cannot make the socket: bind: Address already in use (EADDRINUSE)");
    terminal.wait_until_raw();
    terminal.type_in("echo it is $((40+2))\r");
    terminal.expect("\r\nit is 42\r\n");
    std::fs::remove_file(taken).unwrap();
    leaves(terminal, &name);
    assert_eq!(name.at(), "running");
}

#[test]
fn attach_does_not_invent_an_exit_code() {
    if !root() {
        return;
    }
    let name = Name::container();
    let terminal = Terminal::nspod(&["run", "-it", "--init=false", "--name", &name, "cat"]);
    terminal.wait_until_raw();
    leaves(terminal, &name);
    let mut terminal = Terminal::nspod(&["attach", &name]);
    terminal.wait_until_raw();
    terminal.type_in("\x04");
    assert_eq!(terminal.end(), 125);
    terminal.expect(&format!("the exit status of the container {} is not known", &*name));
}

#[test]
fn keys_that_only_begin_like_the_sequence_reach_the_program() {
    if !root() {
        return;
    }
    let mut terminal = Terminal::nspod(&["run", "-it", "cat", "-v"]);
    terminal.wait_until_raw();
    terminal.type_in("\x10a\r");
    terminal.expect("^Pa\r\n^Pa\r\n");
    terminal.type_in("\x04");
    assert_eq!(terminal.end(), 0);
    // nspod must wait for this container, which would otherwise exceed its limit.
    let mut terminal =
        Terminal::nspod(&["run", "-it", "--timeout", "100s", "sh", "-c", "stty -ixon; echo up; cat -v"]);
    terminal.expect("up");
    terminal.type_in(LEAVE);
    terminal.type_in("\r");
    terminal.expect("^P^Q\r\n^P^Q\r\n");
    terminal.type_in("\x04");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn attach_names_what_helps_if_there_is_no_terminal() {
    if !root() {
        return;
    }
    let detached = Name::detached(&[], &["sleep", "1000"]);
    let refused = nspod(&["attach", &detached]);
    assert_eq!(refused.code(), 125);
    assert!(refused.err.contains(&format!("`nspod exec -it {} sh`", &*detached)), "{refused:?}");
    let used = Name::container();
    let mut terminal = shell(&["--name", &used]);
    let refused = nspod(&["attach", &used]);
    assert!(refused.err.contains("type ctrl-p ctrl-q there"), "{refused:?}");
    terminal.type_in("exit\r");
    assert_eq!(terminal.end(), 0);
    let clash = nspod(&["run", "-it", "--detach-keys", "ctrl-a", "--timeout", "9s", "true"]);
    assert_eq!(clash.code(), 125);
    assert!(clash.err.contains("--timeout"), "{clash:?}");
}

#[test]
fn an_ordinary_user_leaves_a_container_that_is_kept_with_its_status() {
    if !root() {
        return;
    }
    let user = User::new();
    let run = user.command(&["run", "-it", "--keep", "--name", "box", "sh", "-c", "read x; exit $x"]);
    let terminal = Terminal::of(&run);
    terminal.wait_until_raw();
    leaves(terminal, "box");
    assert_eq!(user.nspod(&["ps", "-q"]).ok(), "box\n");
    let mut terminal = Terminal::of(&user.command(&["attach", "box"]));
    terminal.wait_until_raw();
    terminal.type_in("9\r");
    assert_eq!(terminal.end(), 9);
    assert_eq!(user.nspod(&["wait", "box"]).ok(), "9\n");
    assert_eq!(user.nspod(&["rm", "box"]).ok(), "box\n");
}
