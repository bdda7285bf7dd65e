//! x86_64: machine code. The macro expands to assembly, which its user puts into an unsafe block.

/// Calls clone3(2) with a `&mut CloneArgs`, whose `stack + stack_size` is a multiple of 16. The child
/// calls a function with one argument. The frame pointer is zero there, which ends a backtrace.
macro_rules! clone3_call {
    ($args:expr, $function:expr, $argument:expr => $ret:ident) => {
        // `syscall` overwrites rcx and r11, and preserves r8 and r9.
        ::core::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r9",
            "call r8",
            "ud2",
            "2:",
            inlateout("rax") ::libc::SYS_clone3 as isize => $ret,
            in("rdi") ::core::ptr::from_mut::<CloneArgs>($args),
            in("rsi") size_of::<CloneArgs>(),
            in("r8") $function,
            in("r9") $argument,
            out("rcx") _,
            out("r11") _,
        )
    };
}

pub(crate) use clone3_call;
