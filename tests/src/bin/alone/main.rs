//! Tests that need their own process, because they check or change properties of the whole process, such as its
//! descriptors or its user. Exit code 0 means that the test passed.

mod leaves;
mod rootless;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["leaves-nothing", name, share, hold_by] => leaves::run(name, share, hold_by == "Process"),
        ["single-id", _] => rootless::single_id(),
        ["rootless-pod", name] => rootless::pod(name),
        ["rootless-sockets", _] => rootless::sockets(),
        ["rootless-limit", _] => rootless::limit(),
        ["id-ranges", _] => rootless::id_ranges(),
        ["as-nobody", lines, program, what] => rootless::as_nobody(lines, program, what),
        _ => panic!("alone does not know {args:?}"),
    }
}
