//! Does nothing. With an argument, sleeps until it is killed.
fn main() {
    if std::env::args_os().len() > 1 {
        loop {
            std::thread::park();
        }
    }
}
