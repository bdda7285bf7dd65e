//! Does nothing, or sleeps until it is killed if it is given an argument.
fn main() {
    if std::env::args_os().len() > 1 {
        loop {
            std::thread::park();
        }
    }
}
