//! Architectures without their own file: clone3 on a given stack fails with `ENOSYS`.

/// See the version of x86_64.
macro_rules! clone3_call {
    ($args:expr, $function:expr, $argument:expr => $ret:ident) => {{
        let _ = ($args, $function, $argument);
        $ret = -(::libc::ENOSYS as isize);
    }};
}

pub(crate) use clone3_call;
