//! clone3 from a process with threads: children here make system calls only.
// The unsafe blocks are plain system calls on locals. Others have a comment.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

mod common;

use std::ffi::{c_int, c_void};
use std::hint::black_box;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use common::Child;
use ns_core::{Clone3, CloneFlags, ErrorKind, ExitStatus, Kind, Kinds, NamespaceSet, raw};

const SHARED: u64 = (libc::CLONE_VM | libc::CLONE_VFORK) as u64;

/// Writes to the cell behind its argument, then exits with 42.
unsafe extern "C" fn write_cell(cell: *mut c_void) -> ! {
    unsafe {
        (*cell.cast::<AtomicI32>()).store(7, Ordering::SeqCst);
        libc::_exit(42)
    }
}

/// Exits with 0 if its stack is aligned as the ABI requires.
unsafe extern "C" fn check_alignment(_: *mut c_void) -> ! {
    #[repr(align(16))]
    struct Aligned([u8; 16]);
    let mut local = black_box(Aligned([1; 16]));
    let address = black_box((&raw mut local.0).addr());
    unsafe { libc::_exit((address % 16) as c_int) }
}

fn on_stack(
    flags: u64,
    stack: &mut [u8],
    f: unsafe extern "C" fn(*mut c_void) -> !,
    arg: *mut c_void,
) -> Result<i32, nix::errno::Errno> {
    let mut args = raw::clone_args();
    args.flags = flags;
    args.exit_signal = libc::SIGCHLD as u64;
    unsafe { raw::clone3_on_stack(&mut args, stack.as_mut_ptr(), stack.len(), f, arg) }
}

fn exit_code(pid: i32) -> i32 {
    let mut status = 0;
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    match ExitStatus::from_wait(status) {
        ExitStatus::Exited(code) => code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_child_on_its_own_stack_with_shared_memory_changes_the_parents_memory() {
    let mut stack = vec![0u8; 64 << 10];
    let cell = AtomicI32::new(1);
    let pid = on_stack(SHARED, &mut stack, write_cell, (&raw const cell).cast_mut().cast()).unwrap();
    // With VFORK the child has ended when the call returns.
    assert_eq!(cell.load(Ordering::SeqCst), 7);
    assert_eq!(exit_code(pid), 42);
}

#[test]
fn a_child_on_its_own_stack_with_copied_memory_does_not_change_the_parents_memory() {
    let mut stack = vec![0u8; 64 << 10];
    let cell = AtomicI32::new(1);
    let pid = on_stack(0, &mut stack, write_cell, (&raw const cell).cast_mut().cast()).unwrap();
    assert_eq!(exit_code(pid), 42);
    assert_eq!(cell.load(Ordering::SeqCst), 1);
}

#[test]
fn the_childs_stack_is_aligned_for_any_start_and_end_of_its_memory() {
    let mut stack = vec![0u8; 64 << 10];
    for start in 0..17 {
        for end in 0..17 {
            let end = stack.len() - end;
            let pid = on_stack(SHARED, &mut stack[start..end], check_alignment, std::ptr::null_mut());
            assert_eq!(exit_code(pid.unwrap()), 0, "{start}..{end}");
        }
    }
}

#[test]
fn a_stack_too_short_for_a_call_is_refused() {
    for size in [0, 1, 15] {
        let pid = on_stack(SHARED, &mut vec![0u8; size], check_alignment, std::ptr::null_mut());
        assert_eq!(pid, Err(nix::errno::Errno::EINVAL));
    }
    let mut stack = [0u8; 64];
    let start = 1 + stack.as_ptr().align_offset(16);
    let pid = on_stack(SHARED, &mut stack[start..start + 3], check_alignment, std::ptr::null_mut());
    assert_eq!(pid, Err(nix::errno::Errno::EINVAL));
}

#[test]
fn spawn_on_a_stack_returns_the_kernels_error() {
    let mut stack = vec![0u8; 4096];
    let flags = SHARED | (libc::CLONE_NEWNS | libc::CLONE_FS) as u64;
    let pid = on_stack(flags, &mut stack, check_alignment, std::ptr::null_mut());
    assert_eq!(pid, Err(nix::errno::Errno::EINVAL));
}

#[test]
fn eight_threads_spawn_while_others_allocate_without_a_hang_or_a_mix_up() {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    black_box((0..64).map(|n| vec![n as u8; 1 << (n % 14)]).collect::<Vec<_>>());
                }
            });
        }
        let spawners: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut stack = vec![0u8; 16 << 10];
                    for round in 0..100 {
                        let cell = AtomicI32::new(0);
                        let arg = (&raw const cell).cast_mut().cast();
                        let flags = if round % 4 == 0 { 0 } else { SHARED };
                        let pid = on_stack(flags, &mut stack, write_cell, arg).unwrap();
                        assert_eq!(exit_code(pid), 42);
                        assert_eq!(cell.into_inner(), if flags == 0 { 0 } else { 7 });
                    }
                })
            })
            .collect();
        let results: Vec<_> = spawners.into_iter().map(|spawner| spawner.join()).collect();
        stop.store(true, Ordering::Relaxed);
        results.into_iter().for_each(|result| result.unwrap());
    });
}

#[test]
fn sharing_memory_without_a_stack_is_refused() {
    let clone = Clone3 { flags: CloneFlags::VM | CloneFlags::VFORK, ..Clone3::default() };
    let error = unsafe { clone.spawn() }.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().ends_with("use spawn_on_stack"), "{error}");
    let mut args = raw::clone_args();
    args.flags = SHARED;
    assert_eq!(unsafe { raw::clone3(&mut args) }, Err(nix::errno::Errno::EINVAL));
}

#[test]
fn the_typed_spawn_on_a_stack_returns_a_pidfd_of_the_child() {
    let mut stack = vec![0u8; 64 << 10];
    let cell = AtomicI32::new(1);
    let clone = Clone3 {
        kinds: Kinds::FIVE,
        flags: CloneFlags::VM | CloneFlags::VFORK | CloneFlags::PIDFD | CloneFlags::CLEAR_SIGHAND,
        ..Clone3::default()
    };
    let arg = (&raw const cell).cast_mut().cast();
    let child = unsafe { clone.spawn_on_stack(stack.as_mut_ptr(), stack.len(), write_cell, arg) }.unwrap();
    let pidfd = child.pidfd.unwrap();
    assert_eq!(pidfd.pid().unwrap(), child.pid);
    assert_eq!(pidfd.wait().unwrap().status, ExitStatus::Exited(42));
    assert_eq!(cell.into_inner(), 7);
}

#[test]
fn a_child_has_new_namespaces_of_exactly_the_requested_kinds() {
    let mine = NamespaceSet::current().unwrap();
    let subsets = Kind::ALL.into_iter().map(Kinds::from).chain([
        Kinds::empty(),
        Kinds::FIVE,
        Kinds::all(),
        Kinds::USER | Kinds::NET,
    ]);
    for kinds in subsets {
        let child = Child::sleeping(Clone3 { kinds, ..Clone3::default() });
        let its = NamespaceSet::of_pidfd(&child.pidfd).unwrap();
        assert_eq!(mine.coincide(&its), !kinds, "{kinds}");
    }
}

#[test]
fn the_first_process_of_a_pid_namespace_is_pid_1_inside_and_has_another_pid_outside() {
    let clone = Clone3 { kinds: Kinds::PID, ..Clone3::default() };
    let asks = Child::run(clone, || unsafe { libc::getpid() });
    assert_eq!(asks.wait(), ExitStatus::Exited(1));
    let sleeps = Child::sleeping(clone);
    assert_eq!(ns_core::pid_chain(sleeps.pid).unwrap(), [sleeps.pid, 1]);
}

#[test]
fn set_tid_chooses_the_pid() {
    let taken = [std::process::id() as i32];
    let clone = Clone3 { set_tid: &taken, ..Clone3::default() };
    let error = Child::try_run(clone, || 0).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(
        error.to_string(),
        "cannot create a process: clone3: File exists (EEXIST); a pid in set_tid is in use"
    );
    // The first process of a pid namespace can only have pid 1.
    let clone = Clone3 { kinds: Kinds::PID, set_tid: &[1], ..Clone3::default() };
    assert_eq!(Child::run(clone, || unsafe { libc::getpid() }).wait(), ExitStatus::Exited(1));
    let clone = Clone3 { kinds: Kinds::PID, set_tid: &[7], ..Clone3::default() };
    let error = Child::try_run(clone, || 0).err().unwrap();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
}

#[test]
fn a_new_mnt_namespace_with_a_shared_root_is_refused_with_the_reason() {
    let clone = Clone3 { kinds: Kinds::MNT, flags: CloneFlags::FS, ..Clone3::default() };
    let error = Child::try_run(clone, || 0).err().unwrap();
    assert_eq!(
        error.to_string(),
        "cannot create a process in new mnt namespaces: clone3: Invalid argument (EINVAL); \
         CloneFlags::FS excludes a new user or mnt namespace"
    );
}

/// Cgroup of the v2 hierarchy, removed at the end.
struct Cgroup(PathBuf);

impl Cgroup {
    fn create(name: &str) -> Option<Cgroup> {
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(PathBuf::from);
        let root = roots.into_iter().find(|root| root.join("cgroup.procs").exists())?;
        let dir = root.join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir(&dir).ok()?;
        Some(Cgroup(dir))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that was just reaped may still be in the cgroup.
        for _ in 0..200 {
            match std::fs::remove_dir(&self.0) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                _ => return,
            }
        }
    }
}

#[test]
fn a_child_starts_in_the_cgroup_it_was_cloned_into() {
    let Some(cgroup) = Cgroup::create("ns-core-test") else {
        return nspod_testkit::skip("no cgroup v2 to write to");
    };
    let dir = std::fs::File::open(&cgroup.0).unwrap();
    let child = Child::sleeping(Clone3 { cgroup: Some(dir.as_fd()), ..Clone3::default() });
    let procs = std::fs::read_to_string(cgroup.0.join("cgroup.procs")).unwrap();
    assert_eq!(procs, format!("{}\n", child.pid));
    drop(child);
    // For a directory that is not a cgroup, the error has the reason.
    let dir = std::fs::File::open("/tmp").unwrap();
    let clone = Clone3 { cgroup: Some(dir.as_fd()), ..Clone3::default() };
    let error = Child::try_run(clone, || 0).err().unwrap();
    assert!(error.to_string().ends_with("the descriptor does not refer to a cgroup v2 directory"), "{error}");
}
