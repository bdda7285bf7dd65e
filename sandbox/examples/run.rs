//! `cargo run -p nspod-sandbox --example run -- sh -c 'hostname; echo $$; ps ax'`
use nspod_sandbox::Command;

fn main() -> Result<(), nspod_sandbox::Error> {
    let mut args = std::env::args_os().skip(1);
    let mut command = Command::new(args.next().unwrap_or_else(|| "true".into()));
    command.args(args).hostname("box");
    println!("{}", command.plan()?);
    let outcome = command.status()?;
    println!("{outcome:?}");
    Ok(())
}
