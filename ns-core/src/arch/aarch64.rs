//! aarch64: machine code. The macro expands to assembly, which its user puts into an unsafe block.

/// Calls clone3(2) with a `&mut CloneArgs`, whose `stack + stack_size` is a multiple of 16. The child
/// calls a function with one argument. The frame pointer is zero there, which ends a backtrace.
macro_rules! clone3_call {
    ($args:expr, $function:expr, $argument:expr => $ret:ident) => {
        // `svc` preserves every register except x0.
        ::core::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x10",
            "blr x9",
            "brk #1",
            "2:",
            inlateout("x0") ::core::ptr::from_mut::<CloneArgs>($args) => $ret,
            in("x1") size_of::<CloneArgs>(),
            in("x8") ::libc::SYS_clone3,
            in("x9") $function,
            in("x10") $argument,
        )
    };
}

pub(crate) use clone3_call;
