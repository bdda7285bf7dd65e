//! aarch64: machine code and numbers that the library and the embedded init need.

/// Ends the process by a signal. Unsafe: must be the last thing that the process does.
macro_rules! trap {
    () => {
        ::core::arch::asm!("brk #1", options(noreturn))
    };
}
pub(crate) use trap;
