//! Runs a victim or a hog of the table of troubles.
//!
//! `nspod-hog victim NAME SECONDS` prints `ready`. For each line of its standard input it then works for that long and
//! prints its progress as one number. `nspod-hog hog NAME` prints `ready`, and what it has got or why that failed,
//! when it is in full swing, and continues until standard input ends. `nspod-hog hogs NAME` prints `ready`, starts such
//! a hog at the first line of its standard input and prints the hog's line, ends it at the second line and prints
//! `ended`, and so on.

use std::io::{self, BufRead, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use nspod_troubles::hog::{self, Hog};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["hog", name] => match hog::find(name) {
            Some(trouble) => attack(trouble.hog),
            None => unknown(name),
        },
        ["hogs", name] => match hogs(name) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("nspod-hog: {error}");
                ExitCode::FAILURE
            }
        },
        ["victim", name, seconds] => match (hog::find(name), seconds.parse()) {
            (Some(trouble), Ok(seconds)) => match victim(trouble, Duration::from_secs_f64(seconds)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("nspod-hog: {error}");
                    ExitCode::FAILURE
                }
            },
            (None, _) => unknown(name),
            (_, Err(_)) => {
                eprintln!("nspod-hog: {seconds} is not a number of seconds");
                ExitCode::from(2)
            }
        },
        ["child", ref work @ ..] => hog::child(work),
        _ => {
            eprintln!("usage: nspod-hog hog NAME | hogs NAME | victim NAME SECONDS");
            for trouble in hog::TABLE {
                eprintln!("  {}", trouble.name);
            }
            ExitCode::from(2)
        }
    }
}

fn unknown(name: &str) -> ExitCode {
    eprintln!("nspod-hog: there is no trouble {name}");
    ExitCode::from(2)
}

/// Starts the attack, keeps what it has taken, and continues until standard input ends.
fn attack(hog: fn() -> io::Result<Hog>) -> ExitCode {
    let taken = hog();
    let said = match &taken {
        Ok(hog) => format!("ready {}", hog.said),
        Err(error) => format!("ready refused: {error}"),
    };
    // The hog itself may have filled the disk of its log.
    let _ = writeln!(io::stdout(), "{said}");
    // A hog that cannot be removed must end with the measurement.
    let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
    ExitCode::SUCCESS
}

/// Starts and ends hogs.
fn hogs(name: &str) -> io::Result<()> {
    println!("ready");
    let mut hog: Option<Child> = None;
    for line in io::stdin().lock().lines() {
        line?;
        if let Some(mut hog) = hog.take() {
            // Its children are in its process group. All of them may have ended.
            let _ = killpg(Pid::from_raw(hog.id() as i32), Signal::SIGKILL);
            hog.wait()?;
            println!("ended");
            continue;
        }
        // In the victim's mount namespace, /proc shows the processes of the victim.
        let mut command = Command::new(std::env::args().next().unwrap_or_default());
        command.args(["hog", name]).stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let started = hog.insert(command.spawn()?);
        let said = started.stdout.take().and_then(|out| io::BufReader::new(out).lines().next());
        println!("{}", said.unwrap_or_else(|| Ok("ready and ended by the kernel".to_owned()))?);
    }
    Ok(())
}

fn victim(trouble: &hog::Trouble, window: Duration) -> io::Result<()> {
    let mut victim = (trouble.victim)()?;
    println!("ready");
    for line in io::stdin().lock().lines() {
        line?;
        let (progress, problem) = victim.progress(window);
        if let Some(problem) = problem {
            eprintln!("nspod-hog: the victim cannot work: {problem}");
        }
        println!("{progress:.2}");
    }
    Ok(())
}
