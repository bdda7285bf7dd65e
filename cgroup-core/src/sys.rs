//! The system calls that neither std nor nix wraps. All unsafe code of this crate is here.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// `pidfd_open(2)`: opens a process. The descriptor refers to this process even if its pid is
/// reused. Since Linux 5.3.
pub(crate) fn pidfd_open(pid: i32) -> nix::Result<OwnedFd> {
    // SAFETY: the call has two integer arguments and accesses no memory of this process.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the call succeeded, so `fd` is a new descriptor with no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// `pidfd_send_signal(2)`: sends a signal. Since Linux 5.1.
pub(crate) fn pidfd_send_signal(pidfd: &OwnedFd, signal: i32) -> nix::Result<()> {
    let info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: `pidfd` is open during the call. With a null pointer the kernel fills in the siginfo
    // itself, as for kill(2).
    let done = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0) };
    Errno::result(done).map(drop)
}

/// `fgetxattr(2)`: returns whether an extended attribute has this value; `false` if it cannot be
/// read.
pub(crate) fn xattr_is(fd: impl AsFd, name: &CStr, expected: &[u8]) -> bool {
    let mut value = [0_u8; 16];
    // SAFETY: `name` is a C string, `value` has room for the given length, and both live during the
    // call.
    let length = unsafe {
        libc::fgetxattr(fd.as_fd().as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    usize::try_from(length).is_ok_and(|length| value.get(..length) == Some(expected))
}

/// The constant of libc has a type that is too small for the value on some targets.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// `clone3(2)`: starts a child that does nothing, and returns its pid and pidfd.
///
/// `alive` is the read end of a pipe, and the only descriptor that the child keeps. The child ends
/// when the last write end is closed. Its end sends no SIGCHLD; wait for it with `waitid` and
/// `__WALL`. Since Linux 5.5.
pub(crate) fn idle_child(alive: &OwnedFd) -> nix::Result<(i32, OwnedFd)> {
    let alive = alive.as_raw_fd();
    let mut pidfd: libc::c_int = -1;
    // SAFETY: all fields are integers, for which 0 is a valid value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    // Without this flag the handlers of the caller would run in the child.
    args.flags = libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND;
    args.pidfd = &raw mut pidfd as u64;
    // SAFETY: `args` and `pidfd` live during the call. Without CLONE_VM and without a stack the
    // child continues with a copy of this memory, as after fork(2). Other threads may have held
    // locks at that moment, so the child makes only system calls.
    let pid = Errno::result(unsafe { libc::syscall(libc::SYS_clone3, &args, size_of_val(&args)) })?;
    if pid == 0 {
        let mut byte = 0_u8;
        // SAFETY: this is the child. The arguments of the calls are integers, except that `read`
        // writes one byte to `byte`. The closed descriptors are not used again, because the child
        // never returns.
        unsafe {
            if alive > 0 {
                libc::syscall(libc::SYS_close_range, 0, alive - 1, 0);
            }
            libc::syscall(libc::SYS_close_range, alive + 1, libc::c_int::MAX, 0);
            while match libc::syscall(libc::SYS_read, alive, &raw mut byte, 1) {
                -1 => Errno::last() == Errno::EINTR,
                read => read > 0,
            } {}
            loop {
                libc::syscall(libc::SYS_exit_group, 0);
            }
        }
    }
    // SAFETY: the call succeeded, so `pidfd` is a new descriptor with no other owner.
    Ok((pid as i32, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// Loads, attaches and lists the programs of a cgroup, and accesses their maps, with `bpf(2)`.
pub(crate) mod bpf {
    use super::{AsFd, AsRawFd, BorrowedFd, Errno, FromRawFd, OwnedFd};

    // Commands, types and flags of linux/bpf.h.
    const MAP_CREATE: u32 = 0;
    const MAP_LOOKUP_ELEM: u32 = 1;
    const MAP_UPDATE_ELEM: u32 = 2;
    const MAP_DELETE_ELEM: u32 = 3;
    const MAP_GET_NEXT_KEY: u32 = 4;
    const PROG_LOAD: u32 = 5;
    const PROG_ATTACH: u32 = 8;
    const PROG_DETACH: u32 = 9;
    const PROG_GET_FD_BY_ID: u32 = 13;
    const MAP_GET_FD_BY_ID: u32 = 14;
    const OBJ_GET_INFO_BY_FD: u32 = 15;
    const PROG_QUERY: u32 = 16;
    const BTF_LOAD: u32 = 18;
    const QUERY_EFFECTIVE: u32 = 1;
    const ALLOW_MULTI: u32 = 2;
    const REPLACE: u32 = 4;
    /// BPF_CGROUP_MAX_PROGS of the kernel.
    const MAX_PROGRAMS: usize = 64;

    /// A place in the kernel where the programs of a cgroup run.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub(crate) struct Hook {
        /// Type of the programs: `BPF_PROG_TYPE_…`.
        pub(crate) program_type: u32,
        /// `BPF_CGROUP_…`.
        pub(crate) attach_type: u32,
    }

    /// `BPF_CGROUP_DEVICE`.
    pub(crate) const DEVICE: Hook = Hook { program_type: 15, attach_type: 6 };

    /// A name of a program or map, at most 15 bytes and a NUL.
    pub(crate) type Name = [u8; 16];

    /// The start of `union bpf_attr` for `BPF_PROG_LOAD`.
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: Name,
        interface: u32,
        attach_type: u32,
    }

    /// The same for `BPF_PROG_ATTACH` and `BPF_PROG_DETACH`.
    #[repr(C)]
    struct Attach {
        target: i32,
        program: i32,
        kind: u32,
        flags: u32,
        replaced: i32,
    }

    /// The same for `BPF_PROG_QUERY`.
    #[repr(C)]
    struct Query {
        target: i32,
        kind: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        padding: u32,
    }

    /// The same for `BPF_PROG_GET_FD_BY_ID` and `BPF_MAP_GET_FD_BY_ID`.
    #[repr(C)]
    struct ById {
        id: u32,
        next: u32,
        flags: u32,
    }

    /// The same for `BPF_MAP_CREATE`.
    #[repr(C)]
    struct Create {
        kind: u32,
        key_size: u32,
        value_size: u32,
        entries: u32,
        flags: u32,
        inner: i32,
        numa_node: u32,
        name: Name,
        interface: u32,
        btf: u32,
        btf_key: u32,
        btf_value: u32,
    }

    /// The same for `BPF_BTF_LOAD`.
    #[repr(C)]
    struct LoadBtf {
        data: u64,
        log: u64,
        size: u32,
        log_size: u32,
        log_level: u32,
        padding: u32,
    }

    /// The same for `BPF_MAP_LOOKUP_ELEM` and `BPF_MAP_UPDATE_ELEM`.
    #[repr(C)]
    struct Element {
        map: i32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }

    /// The same for `BPF_OBJ_GET_INFO_BY_FD`.
    #[repr(C)]
    struct Info {
        fd: i32,
        size: u32,
        info: u64,
    }

    /// The start of `struct bpf_prog_info`.
    #[repr(C)]
    #[derive(Default)]
    struct ProgramInfo {
        before: [u64; 6],
        uid: u32,
        maps: u32,
        map_ids: u64,
        name: Name,
    }

    /// The start of `struct bpf_map_info`.
    #[repr(C)]
    #[derive(Default)]
    struct MapInfo {
        kind: u32,
        id: u32,
        key_size: u32,
        value_size: u32,
        entries: u32,
        flags: u32,
        name: Name,
    }

    /// The kernel ends its check of a program with `EAGAIN` if a signal arrives.
    const LOAD_ATTEMPTS: usize = 100;

    /// `BPF_PROG_LOAD`: loads a program for the hook. Each instruction is a `struct bpf_insn`.
    pub(crate) fn load(hook: Hook, name: Name, instructions: &[u64]) -> nix::Result<OwnedFd> {
        let mut attr = Load {
            kind: hook.program_type,
            count: instructions.len() as u32,
            instructions: instructions.as_ptr() as u64,
            license: c"MIT".as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log: 0,
            kernel_version: 0,
            flags: 0,
            name,
            interface: 0,
            attach_type: hook.attach_type,
        };
        let mut attempt = 1;
        loop {
            // SAFETY: `instructions` and `license` point to `count` instructions and to a C string. Both
            // live during the call, and the kernel copies them.
            match unsafe { bpf(PROG_LOAD, &mut attr) } {
                Err(Errno::EAGAIN) if attempt < LOAD_ATTEMPTS => attempt += 1,
                result => return result.map(owned),
            }
        }
    }

    /// `BPF_PROG_ATTACH`: attaches a program to a cgroup, beside others or in place of `replaced`.
    pub(crate) fn attach(
        cgroup: BorrowedFd<'_>,
        hook: Hook,
        program: &OwnedFd,
        replaced: Option<&OwnedFd>,
    ) -> nix::Result<()> {
        let mut attr = Attach {
            target: cgroup.as_raw_fd(),
            program: program.as_raw_fd(),
            kind: hook.attach_type,
            flags: if replaced.is_some() { ALLOW_MULTI | REPLACE } else { ALLOW_MULTI },
            replaced: replaced.map_or(0, AsRawFd::as_raw_fd),
        };
        // SAFETY: the attributes are integers; the descriptors are open during the call.
        unsafe { bpf(PROG_ATTACH, &mut attr) }.map(drop)
    }

    /// `BPF_PROG_DETACH`: detaches a program from a cgroup.
    pub(crate) fn detach(cgroup: BorrowedFd<'_>, hook: Hook, program: &OwnedFd) -> nix::Result<()> {
        let mut attr = Attach {
            target: cgroup.as_raw_fd(),
            program: program.as_raw_fd(),
            kind: hook.attach_type,
            flags: 0,
            replaced: 0,
        };
        // SAFETY: the attributes are integers; the descriptors are open during the call.
        unsafe { bpf(PROG_DETACH, &mut attr) }.map(drop)
    }

    /// `BPF_PROG_QUERY`: returns the ids of the programs that are attached to this cgroup itself, in
    /// the order in which they were attached. Requires CAP_NET_ADMIN.
    pub(crate) fn attached_ids(cgroup: BorrowedFd<'_>, hook: Hook) -> nix::Result<Vec<u32>> {
        query(cgroup, hook, 0)
    }

    /// `BPF_PROG_QUERY`: returns the ids of the programs that run for this cgroup: those of the cgroup,
    /// and then those of each cgroup above it. Requires CAP_NET_ADMIN.
    pub(crate) fn effective_ids(cgroup: BorrowedFd<'_>, hook: Hook) -> nix::Result<Vec<u32>> {
        query(cgroup, hook, QUERY_EFFECTIVE)
    }

    fn query(cgroup: BorrowedFd<'_>, hook: Hook, query_flags: u32) -> nix::Result<Vec<u32>> {
        let most = if query_flags == QUERY_EFFECTIVE { 16 * MAX_PROGRAMS } else { MAX_PROGRAMS };
        let mut ids = vec![0_u32; most];
        let mut query = Query {
            target: cgroup.as_raw_fd(),
            kind: hook.attach_type,
            query_flags,
            attach_flags: 0,
            ids: ids.as_mut_ptr() as u64,
            count: ids.len() as u32,
            padding: 0,
        };
        // SAFETY: `ids` has room for `count` ids and lives during the call, which writes at most
        // that many.
        unsafe { bpf(PROG_QUERY, &mut query) }?;
        ids.truncate(query.count as usize);
        Ok(ids)
    }

    /// `BPF_PROG_GET_FD_BY_ID`: opens the programs that are attached to this cgroup itself. Requires
    /// CAP_SYS_ADMIN.
    pub(crate) fn attached(cgroup: BorrowedFd<'_>, hook: Hook) -> nix::Result<Vec<OwnedFd>> {
        attached_ids(cgroup, hook)?.into_iter().map(program).collect()
    }

    /// `BPF_PROG_GET_FD_BY_ID`: opens a program. Fails with `ENOENT` if it was unloaded. Requires
    /// CAP_SYS_ADMIN.
    pub(crate) fn program(id: u32) -> nix::Result<OwnedFd> {
        by_id(PROG_GET_FD_BY_ID, id)
    }

    /// Opens the programs with these ids that `open` does not leave out. Starts again if another process has
    /// just detached or replaced one.
    pub(crate) fn open_all<T>(
        ids: impl Fn() -> nix::Result<Vec<u32>>,
        open: impl Fn(u32) -> nix::Result<Option<T>>,
    ) -> nix::Result<Vec<T>> {
        loop {
            match ids()?.into_iter().map(&open).collect::<nix::Result<Vec<_>>>() {
                Err(Errno::ENOENT) => {}
                all => return Ok(all?.into_iter().flatten().collect()),
            }
        }
    }

    /// `BPF_OBJ_GET_INFO_BY_FD`: returns the id and the name of a program, and the ids of its maps.
    pub(crate) fn program_info(program: &OwnedFd) -> nix::Result<(u32, Name, Vec<u32>)> {
        let mut maps = vec![0_u32; MAX_PROGRAMS];
        let mut info = ProgramInfo {
            maps: maps.len() as u32,
            map_ids: maps.as_mut_ptr() as u64,
            ..ProgramInfo::default()
        };
        // SAFETY: `map_ids` has room for `maps` ids and lives during the call, which writes at most
        // that many. The other pointers and lengths of the record are 0, so nothing is written there.
        unsafe { object_info(program.as_fd(), &mut info) }?;
        maps.truncate(info.maps as usize);
        // The first eight bytes are two integers: the type and the id.
        let [.., a, b, c, d] = info.before[0].to_ne_bytes();
        Ok((u32::from_ne_bytes([a, b, c, d]), info.name, maps))
    }

    /// A map: key and value are bytes.
    #[derive(Debug)]
    pub(crate) struct Map {
        fd: OwnedFd,
        key_size: usize,
        value_size: usize,
    }

    /// The kind and the sizes of a map that is created.
    #[derive(Debug, Clone, Copy)]
    pub(crate) struct MapKind {
        /// `BPF_MAP_TYPE_…`.
        pub(crate) kind: u32,
        pub(crate) key_size: u32,
        pub(crate) value_size: u32,
        /// `BPF_F_…`.
        pub(crate) flags: u32,
        pub(crate) name: Name,
    }

    impl Create {
        fn of(kind: MapKind) -> Self {
            let MapKind { kind, key_size, value_size, flags, name } = kind;
            Self {
                kind,
                key_size,
                value_size,
                entries: 0,
                flags,
                inner: 0,
                numa_node: 0,
                name,
                interface: 0,
                btf: 0,
                btf_key: 0,
                btf_value: 0,
            }
        }
    }

    /// `BPF_BTF_LOAD`: loads the description of one type, `int`.
    /// <https://docs.kernel.org/bpf/btf.html>
    fn int_type() -> nix::Result<OwnedFd> {
        const INT: u32 = 1 << 24;
        const SIGNED_32_BITS: u32 = 1 << 24 | 32;
        let name = *b"\0int\0\0\0\0";
        // Magic number and version; the lengths of the header, the types and the names.
        let head = u32::from_ne_bytes(if cfg!(target_endian = "little") {
            [0x9f, 0xeb, 1, 0]
        } else {
            [0xeb, 0x9f, 1, 0]
        });
        let words = [head, 24, 0, 16, 16, name.len() as u32, 1, INT, 4, SIGNED_32_BITS];
        let data: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).chain(name).collect();
        let mut attr = LoadBtf {
            data: data.as_ptr() as u64,
            log: 0,
            size: data.len() as u32,
            log_size: 0,
            log_level: 0,
            padding: 0,
        };
        // SAFETY: `data` has `size` bytes and lives during the call.
        unsafe { bpf(BTF_LOAD, &mut attr) }.map(owned)
    }

    impl Map {
        /// `BPF_MAP_CREATE`.
        pub(crate) fn create(kind: MapKind, entries: u32) -> nix::Result<Self> {
            Self::create_with(Create { entries, ..Create::of(kind) })
        }

        /// `BPF_MAP_CREATE`: creates a storage in sockets. Key and value are of the type `int`.
        pub(crate) fn create_of_sockets(kind: MapKind) -> nix::Result<Self> {
            let btf = int_type()?;
            let btf_fd = btf.as_raw_fd() as u32;
            Self::create_with(Create { btf: btf_fd, btf_key: 1, btf_value: 1, ..Create::of(kind) })
        }

        fn create_with(mut attr: Create) -> nix::Result<Self> {
            // SAFETY: the attributes are integers; the callers keep the descriptors among them open.
            let fd = unsafe { bpf(MAP_CREATE, &mut attr) }.map(owned)?;
            Ok(Self { fd, key_size: attr.key_size as usize, value_size: attr.value_size as usize })
        }

        /// `BPF_MAP_GET_FD_BY_ID`: opens a map, and returns its name too. Requires CAP_SYS_ADMIN.
        pub(crate) fn open(id: u32) -> nix::Result<(Self, Name)> {
            let fd = by_id(MAP_GET_FD_BY_ID, id)?;
            let mut info = MapInfo::default();
            // SAFETY: the record has no pointers.
            unsafe { object_info(fd.as_fd(), &mut info) }?;
            Ok((
                Self { fd, key_size: info.key_size as usize, value_size: info.value_size as usize },
                info.name,
            ))
        }

        /// `BPF_MAP_UPDATE_ELEM`: sets a value. Fails with `EINVAL` if a size is not that of the map.
        pub(crate) fn update(&self, key: &[u8], value: &[u8]) -> nix::Result<()> {
            self.element(MAP_UPDATE_ELEM, key, value.len(), value.as_ptr() as u64)
        }

        /// `BPF_MAP_LOOKUP_ELEM`: reads a value. Fails with `EINVAL` if a size is not that of the map.
        pub(crate) fn lookup(&self, key: &[u8], value: &mut [u8]) -> nix::Result<()> {
            self.element(MAP_LOOKUP_ELEM, key, value.len(), value.as_mut_ptr() as u64)
        }

        /// `BPF_MAP_DELETE_ELEM`: removes a key. Fails with `ENOENT` if the map does not contain it.
        pub(crate) fn delete(&self, key: &[u8]) -> nix::Result<()> {
            self.element(MAP_DELETE_ELEM, key, self.value_size, 0)
        }

        /// `BPF_MAP_GET_NEXT_KEY`: returns all keys. They are complete if no key is removed meanwhile.
        /// Fails with `EINVAL` if the size is not that of the map.
        pub(crate) fn keys<const SIZE: usize>(&self) -> nix::Result<Vec<[u8; SIZE]>> {
            if SIZE != self.key_size {
                return Err(Errno::EINVAL);
            }
            let mut keys: Vec<[u8; SIZE]> = Vec::new();
            loop {
                let before = keys.last().map_or(0, |key| key.as_ptr() as u64);
                let mut next = [0; SIZE];
                let value = next.as_mut_ptr() as u64;
                let mut attr = Element { map: self.fd.as_raw_fd(), padding: 0, key: before, value, flags: 0 };
                // SAFETY: the key before, if it is not null, and `next` have the size of the map's keys
                // and live during the call.
                match unsafe { bpf(MAP_GET_NEXT_KEY, &mut attr) } {
                    Ok(_) => keys.push(next),
                    Err(Errno::ENOENT) => return Ok(keys),
                    Err(errno) => return Err(errno),
                }
            }
        }

        /// Waits until no program runs that began before this call: the kernel does so when it replaces
        /// a map in a map, before it returns.
        pub(crate) fn wait_for_programs(&self) -> nix::Result<()> {
            let of_maps = MapKind {
                kind: 12, // BPF_MAP_TYPE_ARRAY_OF_MAPS
                key_size: 4,
                value_size: 4,
                flags: 0,
                name: *b"nspod_net_wait\0\0",
            };
            let fd = self.fd.as_raw_fd();
            // The inner map shows the kernel which maps the outer one contains.
            let outer = Self::create_with(Create { entries: 1, inner: fd, ..Create::of(of_maps) })?;
            outer.update(&[0; 4], &fd.to_ne_bytes())
        }

        fn element(&self, command: u32, key: &[u8], value_size: usize, value: u64) -> nix::Result<()> {
            if key.len() != self.key_size || value_size != self.value_size {
                return Err(Errno::EINVAL);
            }
            let key = key.as_ptr() as u64;
            let mut attr = Element { map: self.fd.as_raw_fd(), padding: 0, key, value, flags: 0 };
            // SAFETY: `key` and `value` have the sizes of the map and live during the call. The callers
            // pass a mutable `value` to the command that writes it. No map here is one with a value for
            // each processor, whose values would be longer.
            unsafe { bpf(command, &mut attr) }.map(drop)
        }
    }

    impl AsRawFd for Map {
        fn as_raw_fd(&self) -> i32 {
            self.fd.as_raw_fd()
        }
    }

    fn by_id(command: u32, id: u32) -> nix::Result<OwnedFd> {
        let mut attr = ById { id, next: 0, flags: 0 };
        // SAFETY: the attributes are integers.
        unsafe { bpf(command, &mut attr) }.map(owned)
    }

    /// `BPF_OBJ_GET_INFO_BY_FD`.
    ///
    /// # Safety
    /// `info` must begin as the kernel's record for the object, and each pointer in it must be valid
    /// for writing the count beside it.
    unsafe fn object_info<T>(object: BorrowedFd<'_>, info: &mut T) -> nix::Result<()> {
        let size = std::mem::size_of::<T>() as u32;
        let mut attr = Info { fd: object.as_raw_fd(), size, info: std::ptr::from_mut(info) as u64 };
        // SAFETY: the kernel writes at most `size` bytes at `info`. The caller guarantees the rest.
        unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attr) }.map(drop)
    }

    fn owned(fd: i32) -> OwnedFd {
        // SAFETY: the callers pass the result of a successful bpf command that makes a descriptor.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }

    /// Makes one call.
    ///
    /// # Safety
    /// `attr` must begin as the kernel's `union bpf_attr` for `command`, without padding, and each
    /// pointer in it must be valid for what the command does with it.
    unsafe fn bpf<T>(command: u32, attr: &mut T) -> nix::Result<i32> {
        let size = std::mem::size_of::<T>();
        // SAFETY: the kernel accesses at most `size` bytes at `attr`. The caller guarantees the rest.
        let done = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size) };
        Errno::result(done).map(|fd| fd as i32)
    }
}
