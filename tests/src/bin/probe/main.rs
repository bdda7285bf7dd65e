//! A process that reads an order from each line and answers with one line: `ok TEXT` or `err ERRNO`. It has one
//! thread, so it can join user and time namespaces, and continue in the child after a fork.

mod ipc;
mod member;
mod orders;
mod sys;

use std::io::{self, BufRead, Write};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("member") => member::run(&args[2]),
        _ => serve(io::stdin().lock(), io::stdout()),
    }
}

/// Executes orders until the other side closes the connection.
fn serve(orders: impl BufRead, mut answers: impl Write) {
    let mut state = orders::State::default();
    for line in orders.lines() {
        let Ok(line) = line else { return };
        let answer = match state.obey(&line) {
            Ok(text) => format!("ok {}\n", text.replace('\n', "\t")),
            Err(error) => format!("err {}\n", error.raw_os_error().unwrap_or(-1)),
        };
        if answers.write_all(answer.as_bytes()).and_then(|()| answers.flush()).is_err() {
            return;
        }
    }
}
