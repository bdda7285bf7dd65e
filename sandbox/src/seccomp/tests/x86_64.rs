//! The ABIs of x86_64: i386 and x32.

use super::*;

const X32_BIT: u32 = 0x4000_0000;

#[test]
fn the_standard_profile_names_existing_calls_only() {
    for name in standard::all_names() {
        let known = |abi: &Abi| (abi.number)(name).is_some() || (abi.multiplexed)(name).is_some();
        // Calls of ARM.
        let arm = ["arm_", "breakpoint", "cacheflush", "set_tls", "sync_file_range2"];
        let of_arm = arm.iter().any(|own| name.starts_with(own));
        assert!(of_arm || ABIS.iter().any(known), "{name}");
    }
}

#[test]
fn the_numbers_of_other_abis_are_those_of_the_headers() {
    // The numbers in /usr/include/asm/unistd_32.h and unistd_x32.h.
    let cases = [
        ("read", 3, 0),
        ("open", 5, 2),
        ("getpgid", 132, 121),
        ("socket", 359, 41),
        ("execve", 11, 520),
        ("ioctl", 54, 514),
        ("pwritev2", 379, 547),
        ("rt_sigaction", 174, 512),
    ];
    for (name, x86, x32) in cases {
        assert_eq!((abi(0x4000_0003, false).unwrap().number)(name), Some(x86), "{name}");
        assert_eq!((abi(NATIVE, true).unwrap().number)(name), Some(x32), "{name}");
    }
}

/// Checks calls of a 32-bit program and of an x32 program, made with the instructions of such
/// programs.
#[test]
fn the_kernel_decides_for_each_abi_by_its_own_numbers() {
    const GETPGID_32: u32 = 132;
    const GETPGID_X32: u32 = X32_BIT + 121;
    let json = |architectures: &str| {
        format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "architectures": [{architectures}], "syscalls": [
            {{"names": ["getpgid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71,
              "args": [{{"index": 0, "value": 21474836484, "op": "SCMP_CMP_EQ"}}]}}]}}"#
        )
    };
    let all = parse(&json(r#""SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32""#));
    // A 32-bit ABI sees only the 4 of 5 << 32 | 4.
    assert_eq!(foreign(&all, GETPGID_32, 4), Ok(71));
    assert_eq!(foreign(&all, GETPGID_32, 0), Ok(0));
    assert_eq!(under(&all, &[(libc::SYS_getpgid, [5 << 32 | 4, 0, 0])]), [71]);
    assert_eq!(under(&all, &[(libc::c_long::from(GETPGID_X32), [5 << 32 | 4, 0, 0])]), [71]);
    let native = parse(&json(""));
    assert_eq!(foreign(&native, GETPGID_32, 0), Err(libc::SIGSYS));
    assert_eq!(under(&native, &[(libc::c_long::from(GETPGID_X32), [5 << 32 | 4, 0, 0])]), [libc::ENOSYS]);
}

#[test]
fn the_standard_profile_guards_programs_of_i386_as_well() {
    // getuid32, chown32 and an unknown call; keyctl, unshare, mount, umount, clone3 and vm86.
    let profile = Profile::standard(0);
    for (nr, first, errno) in [(199, 0, 0), (212, 0, libc::EFAULT), (500, 0, libc::ENOSYS)] {
        assert_eq!(foreign(&profile, nr, first), Ok(errno), "{nr}");
    }
    for (nr, errno) in [(288, 1), (310, 1), (21, 1), (22, 1), (435, libc::ENOSYS), (166, 1)] {
        assert_eq!(foreign(&profile, nr, 0), Ok(errno), "{nr}");
    }
    const SOCKET: u32 = 359;
    const SOCKETCALL: u32 = 102;
    for family in [libc::AF_ALG, libc::AF_VSOCK] {
        assert_eq!(foreign(&profile, SOCKET, family as u32), Ok(libc::EPERM));
    }
    assert_ne!(foreign(&profile, SOCKET, libc::AF_UNIX as u32), Ok(libc::EPERM));
    // A filter cannot read its arguments, including the family.
    assert_eq!(foreign(&profile, SOCKETCALL, 1), Ok(libc::EPERM));
    for call in 2..=20 {
        assert_ne!(foreign(&profile, SOCKETCALL, call), Ok(libc::EPERM), "{call}");
    }
}

#[test]
fn a_rule_holds_on_both_ways_to_a_call_of_i386() {
    const SOCKETCALL: u32 = 102;
    const IPC: u32 = 117;
    let profile = parse(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "syscalls": [
        {"names": ["socket", "semget"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71},
        {"names": ["bind"], "action": "SCMP_ACT_ERRNO", "errnoRet": 72,
         "args": [{"index": 1, "value": 5, "op": "SCMP_CMP_EQ"}]}]}"#,
    );
    assert_eq!(foreign(&profile, SOCKETCALL, 1), Ok(71));
    // A filter cannot read its arguments.
    assert_eq!(foreign(&profile, SOCKETCALL, 2), Ok(72));
    assert_eq!(foreign(&profile, SOCKETCALL, 21), Ok(libc::EINVAL));
    // The upper half is a version.
    assert_eq!(foreign(&profile, IPC, 2), Ok(71));
    assert_eq!(foreign(&profile, IPC, 1 << 16 | 2), Ok(71));
    assert_eq!(foreign(&profile, IPC, 99), Ok(libc::ENOSYS));
}

/// Returns the errno (0 for success) of a 32-bit call that a child makes under the filter, or the
/// signal that ended the child.
fn foreign(profile: &Profile, nr: u32, first: u32) -> Result<i32, i32> {
    let mut program = profile.compile().unwrap();
    let prog = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the child makes only raw system calls and exits. `int 0x80` reads its number and
    // argument from the named registers and changes only rax.
    unsafe {
        let pid = libc::fork();
        assert!(pid >= 0);
        if pid == 0 {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            if libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const prog) != 0 {
                libc::_exit(255);
            }
            let mut ret = u64::from(nr);
            std::arch::asm!(
                "mov {kept}, rbx", "mov ebx, {first:e}", "int 0x80", "mov rbx, {kept}",
                kept = out(reg) _, first = in(reg) first, inout("rax") ret,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            );
            let ret = ret as i32;
            libc::_exit(if ret < 0 { -ret } else { 0 });
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
        match libc::WIFEXITED(status) {
            true => Ok(libc::WEXITSTATUS(status)),
            false => Err(libc::WTERMSIG(status)),
        }
    }
}
