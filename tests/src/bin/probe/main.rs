//! A process that takes orders, one line each, and answers with one line: `ok TEXT` or
//! `err ERRNO`. It has one thread, so it may join user and time namespaces, and go on
//! after a fork as if nothing were.

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

/// Obeys until the other side closes.
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
