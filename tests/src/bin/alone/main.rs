//! Tests that need a process to themselves, since what they look at is the whole process's:
//! its descriptors, or its user. Exit code 0 is a pass, and a panic tells why not.

mod leaves;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["leaves-nothing", name, share, hold_by] => leaves::run(name, share, hold_by == "Process"),
        _ => panic!("alone does not know {args:?}"),
    }
}
