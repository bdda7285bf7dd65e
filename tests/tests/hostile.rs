//! Attacks that published advisories describe for other container runtimes.
//!
//! The content of an image never affects a file outside the image. The start is rejected, or the container is
//! confined.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::fcntl::{FcntlArg, FdFlag, SealFlag, fcntl};
use ns_core::Kind;
use nspod_sandbox::Command;
use nspod_sandbox::spec::{IdMaps, Mount, MountKind, NamespaceMode, Node, NodeKind, Root};
use nspod_tests::{Cell, command, lane};
use tempfile::TempDir;

/// An image from an attacker, with a directory of the host beside it.
struct Image(TempDir);

impl Image {
    fn new() -> Image {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("image")).unwrap();
        fs::create_dir_all(dir.path().join("host/sub")).unwrap();
        fs::write(dir.path().join("host/file"), "host").unwrap();
        Image(dir)
    }

    fn image(&self) -> PathBuf {
        self.0.path().join("image")
    }

    fn host(&self) -> PathBuf {
        self.0.path().join("host")
    }

    fn command(&self) -> Command {
        let mut command = command();
        command.root(Root::Dir { path: self.image(), readonly: false });
        command
    }

    /// Checks that the host's directory is unchanged.
    fn assert_untouched(&self, attack: &str) {
        let host = self.host();
        assert_eq!(fs::read_to_string(host.join("file")).unwrap(), "host", "{attack}");
        let names = |dir: &Path| {
            let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&host), ["file", "sub"], "{attack}");
        assert!(names(&host.join("sub")).is_empty(), "{attack}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.0.path().to_str().unwrap()), "{attack}");
    }
}

/// The ways in which a symlink can lead to a directory of the host.
fn targets(to: &Path) -> [PathBuf; 3] {
    let up: PathBuf = std::iter::repeat_n("..", 32).collect();
    [to.to_owned(), up.join(to.strip_prefix("/").unwrap()), Path::new("../host").into()]
}

/// Creates the target of the symlink within the image, for code that resolves it with the image's root as `/`.
fn decoy(image: &Image, target: &Path) {
    let inside: PathBuf = target.components().filter(|part| matches!(part, Component::Normal(_))).collect();
    fs::create_dir_all(image.image().join(inside)).unwrap();
}

#[test]
fn a_symlink_in_place_of_an_image_directory_leads_no_mount_to_the_host() {
    if !lane::root() {
        return;
    }
    /// Directories on which every container mounts something. No link in their place is followed.
    const MOUNTED: [&str; 3] = ["dev", "proc", "sys"];
    for (name, at, with_decoy) in all(&["dev", "proc", "sys", "run", "tmp"]) {
        let image = Image::new();
        let target = &targets(&image.host())[at];
        if with_decoy {
            decoy(&image, target);
        }
        if image.image().join(name).exists() {
            assert!(with_decoy && name == "tmp", "only a decoy of a temporary directory is there");
            continue;
        }
        symlink(target, image.image().join(name)).unwrap();
        let attack = format!("/{name} -> {}", target.display());
        match Cell::start(&mut image.command()) {
            Ok(mut cell) => {
                assert!(!MOUNTED.contains(&name), "{attack}: the link was followed");
                // The container neither sees nor writes a file of the host there.
                assert_eq!(cell.order(&format!("read /{name}/file")), Err(libc::ENOENT), "{attack}");
                let _ = cell.order(&format!("write /{name}/new text"));
            }
            // A link from /tmp to a temporary directory of the host leads to itself in the image.
            Err(error) => {
                assert!(name == "tmp" || MOUNTED.contains(&name), "{attack}: {error}");
                assert_eq!(error.raw_os_error(), Some(libc::ELOOP), "{attack}: {error}");
            }
        }
        image.assert_untouched(&attack);
    }
}

/// Tests each name with each way to the host, with and without a decoy.
fn all<'a>(names: &'a [&'a str]) -> impl Iterator<Item = (&'a str, usize, bool)> {
    let ways = |name| (0..3).flat_map(move |at| [(name, at, false), (name, at, true)]);
    names.iter().copied().flat_map(ways)
}

#[test]
fn a_symlink_as_a_mount_destination_leads_no_mount_to_the_host() {
    if !lane::root() {
        return;
    }
    for (destination, at, with_decoy) in all(&["/volume", "/volume/sub", "/volume/sub/new", "/volume/file"]) {
        let image = Image::new();
        let target = &targets(&image.host())[at];
        if with_decoy {
            decoy(&image, target);
        }
        symlink(target, image.image().join("volume")).unwrap();
        let attack = format!("{destination} where /volume -> {}", target.display());
        let source = tempfile::tempdir().unwrap();
        let mut command = image.command();
        let kind = MountKind::Bind { source: source.path().into(), recursive: true };
        command.mount(Mount::new(destination, kind));
        let mut cell = Cell::start(&mut command).unwrap();
        let read = cell.order("read /volume/file").unwrap_err();
        let expected = if destination == "/volume/file" { libc::EISDIR } else { libc::ENOENT };
        assert_eq!(read, expected, "{attack}");
        let _ = cell.order(&format!("write {destination}/new text"));
        drop(cell);
        image.assert_untouched(&attack);
    }
}

/// Sets a flag when dropped.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_symlink_swapped_in_during_starts_leads_no_mount_to_the_host() {
    if !lane::root() {
        return;
    }
    const SWAPS: u64 = 10_000;
    let image = Image::new();
    let pairs = ["volume", "nodes", "masked", "readonly"].map(|name| {
        let (directory, link) = (image.image().join(name), image.image().join(format!("{name}.link")));
        fs::create_dir_all(directory.join("sub")).unwrap();
        symlink(image.host(), &link).unwrap();
        (directory, link)
    });
    let source = tempfile::tempdir().unwrap();
    let (stop, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
                for (a, b) in &pairs {
                    renameat2(AT_FDCWD, a, AT_FDCWD, b, RenameFlags::RENAME_EXCHANGE).unwrap();
                    swaps.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        // The thread ends even if an assertion fails.
        let _stop = Stop(&stop);
        let mut outcomes = [0, 0];
        let rounds = lane::rounds(200);
        // At least one container must start. Otherwise nothing was tested.
        for round in 0..10 * rounds {
            if round >= rounds && outcomes[1] > 0 && swaps.load(Ordering::Relaxed) >= SWAPS {
                break;
            }
            let mut command = image.command();
            let kind = MountKind::Bind { source: source.path().into(), recursive: false };
            command.mount(Mount::new("/volume/sub", kind));
            let spec = command.spec_mut();
            for (name, kind) in [("pipe", NodeKind::Fifo), ("zero", NodeKind::Char(1, 5))] {
                let path = Path::new("/nodes").join(name);
                spec.nodes.push(Node { path, kind, mode: 0o666, uid: 0, gid: 0 });
            }
            spec.masked_paths.extend(["/volume/file".into(), "/masked/sub".into()]);
            spec.readonly_paths.push("/readonly/sub".into());
            match Cell::start(&mut command) {
                Ok(mut cell) => {
                    outcomes[1] += 1;
                    let _ = cell.order("write /volume/sub/new text");
                    let _ = cell.order("write /readonly/sub/new text");
                    for (directory, link) in &pairs {
                        for name in [directory, link].map(|path| path.file_name().unwrap().display()) {
                            assert_eq!(cell.order(&format!("read /{name}/file")), Err(libc::ENOENT));
                        }
                    }
                }
                Err(error) => {
                    outcomes[0] += 1;
                    assert!(error.failed_call().is_some() && error.raw_os_error().is_some(), "{error}");
                }
            }
        }
        let swaps = swaps.load(Ordering::Relaxed);
        eprintln!("{} were refused and {} contained, with {swaps} swaps", outcomes[0], outcomes[1]);
        assert!(outcomes[1] > 0 && swaps >= SWAPS, "too little was tried");
    });
    image.assert_untouched("a symlink swapped in");
}

#[test]
fn symlinks_in_place_of_devices_and_masked_paths_mask_nothing_of_the_host() {
    if !lane::root() {
        return;
    }
    for at in 0..3 {
        let image = Image::new();
        let file = targets(&image.host())[at].join("file");
        fs::create_dir(image.image().join("dev")).unwrap();
        for name in ["dev/null", "dev/console", "dev/ptmx", "dev/shm", "masked", "readonly"] {
            symlink(&file, image.image().join(name)).unwrap();
        }
        let mut command = image.command();
        command.spec_mut().masked_paths.push("/masked".into());
        command.spec_mut().readonly_paths.push("/readonly".into());
        let mut cell = Cell::start(&mut command).unwrap();
        // The devices are real, whatever files the image has under their names.
        assert_eq!(cell.order("read /dev/null").as_deref(), Ok(""));
        assert!(cell.order("write /dev/null text").is_ok());
        assert_eq!(cell.order("read /proc/interrupts").as_deref(), Ok(""));
        assert_eq!(cell.order("read /masked"), Err(libc::ENOENT));
        let null = fs::metadata(format!("/proc/{}/root/dev/null", cell.container.pid())).unwrap();
        assert_eq!(null.rdev(), nix::sys::stat::makedev(1, 3));
        drop(cell);
        image.assert_untouched(&file.display().to_string());
    }
}

#[test]
fn a_container_gets_no_descriptor_but_its_standard_streams() {
    if !lane::root() {
        return;
    }
    // A careless caller leaves these open across exec, including the host's root.
    let leaked = [File::open("/").unwrap(), File::open("/proc/self/exe").unwrap()];
    for file in &leaked {
        fcntl(file, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    }
    let mut with_init = command();
    with_init.init(true);
    for mut command in [command(), with_init] {
        let mut cell = Cell::start(&mut command).unwrap();
        // The fourth descriptor belongs to the listing itself.
        assert_eq!(cell.order("list /proc/self/fd").as_deref(), Ok("0 1 2 3"));
        let own = cell.order("pid").unwrap();
        assert_eq!(cell.order("link /proc/self/fd/3"), Err(libc::ENOENT), "{own}");
        let host = format!("/proc/{}/fd", cell.container.pid());
        let links = fs::read_dir(&host).unwrap().flatten().filter_map(|e| fs::read_link(e.path()).ok());
        assert!(!links.into_iter().any(|to| to == Path::new("/")), "the host's root is open in pid 1");
    }
    let mut given = command();
    given.fd(File::open("/usr").unwrap(), 7);
    let mut cell = Cell::start(&mut given).unwrap();
    assert_eq!(cell.order("list /proc/self/fd").as_deref(), Ok("0 1 2 3 7"));
}

#[test]
fn a_working_directory_outside_the_root_is_refused() {
    if !lane::root() {
        return;
    }
    let image = Image::new();
    // Try a leaked descriptor, and one that was passed on deliberately.
    let host = File::open(image.host()).unwrap();
    fcntl(&host, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let leaked = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&host));
    for cwd in [leaked.as_str(), "/proc/self/fd/5", "/proc/self/fd/5/sub", "/proc/self/fd/5/../host"] {
        let mut command = image.command();
        command.fd(host.try_clone().unwrap(), 5).current_dir(cwd);
        let error = Cell::start(&mut command).unwrap_err();
        assert!(error.to_string().contains(cwd), "{error}");
    }
    // A symlink of the image is resolved within the image.
    symlink("/../../../../run", image.image().join("up")).unwrap();
    let mut command = image.command();
    command.current_dir("/up");
    let mut cell = Cell::start(&mut command).unwrap();
    assert_eq!(cell.order("link /proc/self/cwd").as_deref(), Ok("/run"));
}

#[test]
fn a_sysctl_is_written_to_the_kernel_and_not_to_a_file_of_the_image() {
    if !lane::root() {
        return;
    }
    let image = Image::new();
    // The image has its own /proc. The containers mount a procfs over it, elsewhere, or not at all.
    let fake = image.image().join("proc/sys/kernel/shmmni");
    fs::create_dir_all(fake.parent().unwrap()).unwrap();
    fs::write(&fake, "fake").unwrap();
    for at in [Some("/proc"), Some("/other"), None] {
        let mut command = image.command();
        let spec = command.spec_mut();
        spec.mounts.retain(|mount| mount.kind != MountKind::Proc);
        spec.mounts.extend(at.map(|at| Mount::new(at, MountKind::Proc)));
        spec.sysctls.insert("kernel.shmmni".into(), "77".into());
        let mut cell = Cell::start(&mut command).unwrap();
        assert_eq!(fs::read_to_string(&fake).unwrap(), "fake");
        if let Some(at) = at {
            assert_eq!(cell.order(&format!("read {at}/sys/kernel/shmmni")).as_deref(), Ok("77\n"));
        }
    }
    assert_ne!(fs::read_to_string("/proc/sys/kernel/shmmni").unwrap(), "77\n");
}

#[test]
fn a_single_mapped_id_prevents_dropping_groups() {
    if !lane::root() {
        return;
    }
    let mut single = command();
    single.namespace(Kind::User, NamespaceMode::New);
    single.spec_mut().id_maps = IdMaps::Single;
    let mut cell = Cell::start(&mut single).unwrap();
    assert_eq!(cell.order("read /proc/self/setgroups").as_deref(), Ok("deny\n"));
    assert_eq!(cell.order("drop-groups"), Err(libc::EPERM));
    // The control: with a range of ids the attack works, because none of the groups was a group of the host.
    let mut range = command();
    range.namespace(Kind::User, NamespaceMode::New);
    let mut cell = Cell::start(&mut range).unwrap();
    assert_eq!(cell.order("read /proc/self/setgroups").as_deref(), Ok("allow\n"));
    assert!(cell.order("drop-groups").is_ok());
}

#[test]
fn the_inits_program_cannot_be_overwritten_from_inside() {
    if !lane::root() {
        return;
    }
    let mut command = command();
    command.init(true);
    let mut cell = Cell::start(&mut command).unwrap();
    assert_eq!(cell.order("pid").as_deref(), Ok("2"));
    // Neither the link nor the content of the executable is visible.
    assert_eq!(cell.order("link /proc/1/exe"), Err(libc::EACCES));
    let refused = cell.order("open-for-writing /proc/1/exe").unwrap_err();
    assert!([libc::ETXTBSY, libc::EACCES, libc::EPERM].contains(&refused), "errno {refused}");
    // The file is sealed permanently, not only while it runs.
    let exe = File::open(format!("/proc/{}/exe", cell.container.pid())).unwrap();
    let seals = SealFlag::from_bits_retain(fcntl(exe.as_fd(), FcntlArg::F_GET_SEALS).unwrap());
    assert!(seals.contains(SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW));
    assert!(seals.contains(SealFlag::F_SEAL_SEAL));
}

#[test]
fn capabilities_are_not_inheritable_by_default() {
    if !lane::root() {
        return;
    }
    let mut cell = Cell::start(&mut command()).unwrap();
    let status = cell.order("read /proc/self/status").unwrap();
    for set in ["CapInh", "CapAmb"] {
        // (The probe replaces the tabs of the file by line ends.)
        assert!(status.contains(&format!("{set}:\n0000000000000000")), "{status}");
    }
}
