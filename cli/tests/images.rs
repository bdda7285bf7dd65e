//! Hostile images and bundles: links, special files, huge files, and names of any form. Each start ends in success or
//! in an error, within bounds of memory, and nothing outside the image changes.

mod common;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::bundle::Bundle;
use common::{NSPOD, Name, OCI, Output, ok, programs, root, run_with, unique};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nspod_testkit::{is_slow, rounds};
use serde_json::{Value, json};

/// Maximum address space of the programs under test: far below the sizes of the hostile files.
const SPACE: u64 = 2 << 30;

/// Returns a command of this program with a limit of its memory.
fn limited(program: &str) -> Command {
    let mut command = Command::new("prlimit");
    command.arg(format!("--as={SPACE}")).arg(program);
    command
}

/// Checks that a command has succeeded, or failed with a sentence: not with a panic or by a signal.
#[track_caller]
fn sound(output: &Output, what: &str) {
    match output.code() {
        0 => {}
        code => {
            let sentence = output.err.trim_end().lines().any(|line| line.contains(' '));
            let ended = output.err.contains("panicked") || output.err.contains("memory allocation");
            let by_itself = output.status.code().is_some() && code != 101;
            assert!(by_itself && sentence && !ended, "{what}: {}", shown(output));
        }
    }
}

#[track_caller]
fn refused(output: &Output, what: &str) {
    sound(output, what);
    assert_ne!(output.code(), 0, "{what}: {}", shown(output));
}

fn shown(output: &Output) -> String {
    format!("{:?} {:.500} {:.1000}", output.status, output.out, output.err)
}

/// A bundle, and a directory of the host beside it.
struct Image(Bundle);

impl Image {
    fn new(script: &str, change: impl FnOnce(&mut Value)) -> Image {
        let bundle = Bundle::changed(script, change);
        let host = bundle.path("host");
        fs::create_dir_all(host.join("a/b")).unwrap();
        for name in ["file", "a/file", "a/b/file"] {
            fs::write(host.join(name), "secret").unwrap();
        }
        Image(bundle)
    }

    fn root(&self, path: &str) -> PathBuf {
        self.0.path("rootfs").join(path)
    }

    fn oci(&self, args: &[&str]) -> Output {
        let mut command = limited(OCI);
        self.0.run(command.args(self.0.raw(args).get_args()).current_dir(self.0.path("")))
    }

    /// Runs the bundle, and removes it.
    fn run(&self) -> Output {
        self.oci(&["run", &self.0.id])
    }

    /// Runs the root file system with nspod.
    fn nspod(&self, flags: &[&str], command: &[&str]) -> Output {
        let mut all = limited(NSPOD);
        all.args(["run", "--rootfs"]).arg(self.root("")).args(flags).args(command);
        run_with(&mut all, "")
    }

    /// Returns all that an attack could change on the host.
    fn host(&self) -> String {
        let mut find = Command::new("find");
        let format = ["-printf", "%p %y %m %U:%G %i %n %s %T@ %l\n"];
        let mut found = run_with(find.arg(self.0.path("host")).args(format), "").ok().to_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let own = self.0.path("").to_str().unwrap().to_owned();
        mounts.lines().filter(|line| line.contains(own.trim_end_matches('/'))).for_each(|line| found += line);
        found
    }
}

/// Returns all of these, or each `step`th in the emulated guest, which is slow.
fn sample<T>(all: impl IntoIterator<Item = T>, step: usize) -> impl Iterator<Item = T> {
    all.into_iter().step_by(if is_slow() { step } else { 1 })
}

fn able() -> bool {
    root() && programs(&["prlimit", "find", "unshare"])
}

/// Returns the ways in which a link can lead to this directory of the host, or nowhere.
fn targets(to: &Path, name: &str) -> Vec<(&'static str, PathBuf)> {
    let up: PathBuf = std::iter::repeat_n("..", 32).collect();
    let dotted = up.join(to.strip_prefix("/").unwrap());
    vec![
        ("absolute", to.into()),
        ("dotted", dotted),
        ("beside", "../../host".into()),
        ("looping", name.into()),
    ]
}

/// The places in the root of a container that the runtime resolves. Each gets a path of its own.
const PLACES: [&str; 8] = ["tmpfs", "dir", "file", "fifo", "device", "masked", "readonly", "cwd"];

/// Adds a use of the path to the configuration.
fn place(config: &mut Value, kind: &str, path: &str, host: &Path) {
    let push = |list: &mut Value, item: Value| match list.as_array_mut() {
        Some(list) => list.push(item),
        None => *list = json!([item]),
    };
    let bind = |source: &Path| json!({ "destination": path, "source": source, "options": ["rbind"] });
    match kind {
        "tmpfs" => push(&mut config["mounts"], json!({ "destination": path, "type": "tmpfs" })),
        "dir" => push(&mut config["mounts"], bind(&host.with_file_name("source"))),
        "file" => push(&mut config["mounts"], bind(&host.with_file_name("config.json"))),
        "fifo" => push(&mut config["linux"]["devices"], json!({ "type": "p", "path": path })),
        "device" => {
            push(
                &mut config["linux"]["devices"],
                json!({ "type": "c", "path": path, "major": 1, "minor": 5 }),
            );
        }
        "masked" => push(&mut config["linux"]["maskedPaths"], path.into()),
        "readonly" => push(&mut config["linux"]["readonlyPaths"], path.into()),
        _ => config["process"]["cwd"] = path.into(),
    }
}

#[test]
fn a_link_at_any_component_of_any_path_leads_nothing_out_of_the_root() {
    if !able() {
        return;
    }
    // Each path has three components below its own directory, and one of them is the link.
    const PARTS: [&str; 3] = ["a", "a/b", "a/b/end"];
    for (which, part) in sample(PARTS.iter().enumerate().skip(usize::from(is_slow())), 2) {
        for way in 0..4 {
            let image = Image::new("cat /*/a/b/end /*/a/b/end/* 2>/dev/null; true", |_| {});
            fs::create_dir(image.0.path("source")).unwrap();
            let before = image.host();
            let mut loops = false;
            for kind in PLACES {
                let link = image.root(kind).join(part);
                fs::create_dir_all(link.parent().unwrap()).unwrap();
                // The link leads to the host's directory that continues the path.
                let to =
                    [image.0.path("host"), image.0.path("host/a"), image.0.path("host/a/b")][which].clone();
                let (name, target) = targets(&to, part.rsplit('/').next().unwrap()).swap_remove(way);
                loops = name == "looping";
                symlink(target, link).unwrap();
            }
            let host = image.0.path("host");
            let path = |kind: &str| format!("/{kind}/a/b/end");
            let pristine = fs::read(image.0.path("config.json")).unwrap();
            let groups = match loops {
                // The first failure would hide the others.
                true => PLACES.map(|kind| vec![kind]).to_vec(),
                false => vec![PLACES.to_vec()],
            };
            for group in sample(groups, 4) {
                fs::write(image.0.path("config.json"), &pristine).unwrap();
                image.0.edit(|config| group.iter().for_each(|kind| place(config, kind, &path(kind), &host)));
                let output = image.run();
                let what = format!("{group:?} {part} {way}");
                sound(&output, &what);
                assert!(!loops || output.code() != 0 || group == ["readonly"], "{what}: {}", shown(&output));
                assert!(!output.out.contains("secret"), "{what}: {}", shown(&output));
                assert_eq!(image.host(), before, "{what}");
            }
        }
    }
}

/// Exchanges pairs of names until it is dropped.
struct Swapper<'a> {
    done: &'a AtomicBool,
}

impl Drop for Swapper<'_> {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
    }
}

/// Runs `test` while directories of the image are exchanged with links to the host. `test` gets the count of
/// exchanges.
fn while_swapping(pairs: &[(PathBuf, PathBuf)], test: impl FnOnce(&AtomicU64)) {
    let (done, count) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for (a, b) in pairs {
                    renameat2(AT_FDCWD, a, AT_FDCWD, b, RenameFlags::RENAME_EXCHANGE).unwrap();
                    count.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::yield_now();
            }
        });
        // The thread ends even if an assertion fails.
        let _swapper = Swapper { done: &done };
        test(&count);
    });
}

/// Makes links to the host's directory beside these directories of the image.
fn pairs(image: &Image, names: &[&str]) -> Vec<(PathBuf, PathBuf)> {
    let pair = |name: &&str| {
        let (directory, link) = (image.root(name), image.root(&format!("{name}.link")));
        fs::create_dir_all(&directory).unwrap();
        symlink(image.0.path("host"), &link).unwrap();
        (directory, link)
    };
    names.iter().map(pair).collect()
}

/// The naive runtime checks a path and then uses it, like the runtimes of CVE-2021-30465 and CVE-2024-45310.
#[test]
fn a_naive_runtime_loses_the_race_against_a_swapped_link() {
    if !able() {
        return;
    }
    let image = Image::new("true", |_| {});
    let pairs = pairs(&image, &["volume"]);
    let (directory, outside) = (image.root("volume"), image.0.path("host/made"));
    while_swapping(&pairs, |_| {
        common::eventually("the naive runtime makes a directory on the host", || {
            for _ in 0..1000 {
                if directory.symlink_metadata().is_ok_and(|found| found.is_dir()) {
                    let _ = fs::create_dir(directory.join("made"));
                }
                if outside.exists() {
                    return true;
                }
                let _ = fs::remove_dir(directory.join("made"));
            }
            false
        });
    });
}

/// Number of exchanges of a name with a link in all starts of one test.
const SWAPS: u64 = 10_000;

/// Starts the image until enough starts have succeeded and enough names were exchanged.
fn survives(image: &Image, names: &[&str], wanted: u32) {
    let pairs = pairs(image, names);
    let before = image.host();
    let (mut started, mut refused) = (0, 0);
    while_swapping(&pairs, |count| {
        for _ in 0..50 * wanted {
            let output = image.run();
            sound(&output, "a start while names are swapped");
            assert!(!output.out.contains("secret"), "{}", shown(&output));
            assert_eq!(image.host(), before, "{}", shown(&output));
            if output.code() == 0 {
                started += 1
            } else {
                refused += 1
            }
            if started + refused >= wanted && started > 0 && count.load(Ordering::Relaxed) >= SWAPS {
                break;
            }
        }
        let swaps = count.load(Ordering::Relaxed);
        eprintln!("{names:?}: {started} starts, {refused} refused, {swaps} swaps");
        assert!(started > 0 && swaps >= SWAPS, "{started} starts, {swaps} swaps");
    });
    assert_eq!(image.host(), before);
}

#[test]
fn links_that_are_swapped_in_lead_no_mount_device_or_mask_out_of_the_root() {
    if !able() {
        return;
    }
    let script =
        "echo evil >/tmpfs/a/b/end/new; echo evil >/dir/a/b/new; cat /masked/file /readonly/file /file/file;
        echo evil >/readonly/new; true";
    let image = Image::new(script, |_| {});
    fs::create_dir(image.0.path("source")).unwrap();
    let host = image.0.path("host");
    image.0.edit(|config| {
        for (kind, path) in [
            ("tmpfs", "/tmpfs/a/b/end"),
            ("dir", "/dir/a/b"),
            ("file", "/file/file"),
            ("fifo", "/nodes/pipe"),
            ("device", "/nodes/zero"),
            ("masked", "/masked/file"),
            ("readonly", "/readonly/file"),
            ("cwd", "/cwd/a/b"),
        ] {
            place(config, kind, path, &host);
        }
    });
    for name in ["masked", "readonly"] {
        fs::create_dir(image.root(name)).unwrap();
        fs::write(image.root(name).join("file"), "of the image").unwrap();
    }
    survives(&image, &["tmpfs", "dir", "file", "nodes", "masked", "readonly", "cwd"], rounds(60));
}

#[test]
fn links_that_are_swapped_in_for_proc_and_dev_are_not_followed() {
    if !able() {
        return;
    }
    // The standard devices, and those of the configuration, are made in the image's own /dev.
    let image = Image::new("echo evil >/dev/null; echo evil >/dev/file; cat /dev/file; true", |config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    });
    survives(&image, &["proc", "sys", "dev"], rounds(60));
}

/// What can be in an image where a file is expected.
const SPECIAL: [&str; 8] = ["fifo", "socket", "zero", "block", "huge", "directory", "looping", "kmsg"];

/// Replaces a file by a special one.
fn make(kind: &str, path: &Path) {
    let _ = fs::remove_file(path);
    let _ = fs::remove_dir(path);
    let device = |kind, major, minor| {
        mknod(path, kind, Mode::from_bits_truncate(0o666), makedev(major, minor)).unwrap()
    };
    match kind {
        "fifo" => mknod(path, SFlag::S_IFIFO, Mode::from_bits_truncate(0o777), 0).unwrap(),
        "socket" => drop(UnixListener::bind(path).unwrap()),
        "zero" => device(SFlag::S_IFCHR, 1, 5),
        // There is no driver with this number.
        "block" => device(SFlag::S_IFBLK, 511, 1),
        // Reading kernel messages waits for the next one.
        "kmsg" => device(SFlag::S_IFCHR, 1, 11),
        "huge" => {
            File::create(path).unwrap().set_len(1 << 40).unwrap();
            run_with(Command::new("chmod").arg("755").arg(path), "").ok();
        }
        "directory" => {
            fs::create_dir(path).unwrap();
            run_with(Command::new("chmod").arg("000").arg(path), "").ok();
        }
        _ => symlink(path.file_name().unwrap(), path).unwrap(),
    }
}

#[test]
fn a_special_file_in_place_of_a_file_of_the_image_does_not_hang_a_start() {
    if !able() {
        return;
    }
    const FILES: [&str; 6] = ["passwd", "group", "hosts", "hostname", "resolv.conf", "os-release"];
    let pod = Name::pod();
    ok(&["pod", "create", &pod]);
    for kind in sample(SPECIAL, 4) {
        let image = Image::new("echo started", |config| {
            config["process"]["user"] = json!({ "uid": 7, "gid": 7 });
        });
        // All files at once, then the two that a lookup of names reads.
        for file in FILES {
            make(kind, &image.root("etc").join(file));
        }
        let output = image.run();
        assert_eq!((output.code(), output.out.as_str()), (0, "started\n"), "{kind}: {}", shown(&output));
        sound(&image.nspod(&["-u", "7:7", "--pod", &pod, "-h", "name"], &["true"]), kind);
        for (user, file) in [("web", "passwd"), ("7:web", "group"), ("7", "group")] {
            if file == "passwd" {
                make(kind, &image.root("etc/passwd"));
            } else {
                let _ = fs::remove_dir(image.root("etc/passwd"));
                let _ = fs::remove_file(image.root("etc/passwd"));
                fs::write(image.root("etc/passwd"), "seven:x:7:7::/:\n").unwrap();
            }
            let output = image.nspod(&["-u", user], &["true"]);
            refused(&output, kind);
            assert!(output.err.contains(&format!("/etc/{file}")), "{kind} {user}: {}", shown(&output));
        }
    }
}

#[test]
fn a_special_file_in_place_of_a_program_is_not_executed() {
    if !able() {
        return;
    }
    for kind in sample(SPECIAL, 4) {
        let image = Image::new("", |config| config["process"]["args"] = json!(["/prog"]));
        fs::write(image.root("script"), "#!/prog\n").unwrap();
        run_with(Command::new("chmod").arg("755").arg(image.root("script")), "").ok();
        make(kind, &image.root("prog"));
        for program in ["/prog", "/script"] {
            image.0.edit(|config| config["process"]["args"] = json!([program]));
            refused(&image.run(), &format!("{kind} {program}"));
            for flags in [&["--init"][..], &["--init=false"]] {
                refused(&image.nspod(flags, &[program]), &format!("{kind} {program} {flags:?}"));
            }
        }
        // A search in PATH finds it too.
        sound(&image.nspod(&["-e", "PATH=/"], &["prog"]), kind);
    }
}

#[test]
fn a_special_file_at_a_mount_point_or_a_masked_path_does_not_hang_a_start() {
    if !able() {
        return;
    }
    for kind in sample(SPECIAL, 4) {
        for used in sample(PLACES, 3) {
            let image = Image::new("true", |_| {});
            fs::create_dir(image.0.path("source")).unwrap();
            make(kind, &image.root("used"));
            let host = image.0.path("host");
            image.0.edit(|config| place(config, used, "/used", &host));
            sound(&image.run(), &format!("{used} on {kind}"));
        }
        // The contents of a huge file are not copied into a small tmpfs.
        let image = Image::new("true", |config| {
            let mount =
                json!({ "destination": "/copied", "type": "tmpfs", "options": ["tmpcopyup", "size=64k"] });
            config["mounts"].as_array_mut().unwrap().push(mount);
        });
        fs::create_dir(image.root("copied")).unwrap();
        make(kind, &image.root("copied/file"));
        sound(&image.run(), &format!("a copy of {kind}"));
    }
}

#[test]
fn a_configuration_that_is_a_special_file_is_refused() {
    if !able() {
        return;
    }
    let other = Bundle::new("sleep 1000");
    other.verb(&["run", "--detach"]).ok();
    for kind in sample(SPECIAL, 4) {
        let image = Image::new("true", |_| {});
        make(kind, &image.0.path("config.json"));
        refused(&image.run(), kind);
        // The caller names the other files, and can name a pipe, as with `<(COMMAND)`.
        if kind == "fifo" || kind == "kmsg" {
            continue;
        }
        let file = image.0.path("config.json").to_str().unwrap().to_owned();
        let env = ["--env-file", &file];
        let seccomp = ["--security-opt", &format!("seccomp={file}")];
        for flags in [env, seccomp] {
            refused(&image.nspod(&flags, &["true"]), &format!("{} {kind}", flags[0]));
        }
        for verb in [&["exec", "--process", &file][..], &["update", "--resources", &file]] {
            let mut command = limited(OCI);
            command.args(other.raw(&[verb, &[&other.id]].concat()).get_args());
            refused(&other.run(&mut command), &format!("{verb:?} {kind}"));
        }
    }
}

#[test]
fn a_nested_or_long_configuration_uses_bounded_memory() {
    if !able() {
        return;
    }
    const DEEP: usize = 100_000;
    const FITS: usize = 16 << 20;
    let long = if is_slow() { FITS + 1 } else { 100 << 20 };
    let image = Image::new("true", |_| {});
    let other = Bundle::new("sleep 1000");
    other.verb(&["run", "--detach"]).ok();
    let repeated = |start: &str, part: &str, size: usize, end: &str| {
        let count = (size - start.len() - end.len()) / part.len();
        [start, &part.repeat(count), end].concat()
    };
    let nested = |open: &str, close: &str| [open.repeat(DEEP), close.repeat(DEEP)].concat();
    let documents: [&dyn Fn() -> String; 9] = [
        &|| nested("[", "]"),
        &|| nested("{\"a\":", ""),
        &|| format!("{{\"ociVersion\":\"1.2.0\",\"x\":{}}}", nested("[", "]")),
        &|| format!("{{\"ociVersion\":\"1.2.0\",\"linux\":{{\"seccomp\":{}}}}}", nested("{\"a\":", "")),
        &|| repeated("{\"ociVersion\":\"1.2.0\",\"process\":{\"cwd\":\"/\",\"args\":[", "0,", FITS, "0]}}"),
        &|| repeated("{\"ociVersion\":\"1.2.0\",\"linux\":{\"seccomp\":[", "[],", FITS, "[]]}}"),
        &|| repeated("{\"ociVersion\":\"", "x", FITS, "\"}"),
        &|| repeated("{\"ociVersion\":\"", "x", long, "\"}"),
        &|| repeated("{\"ociVersion\":\"1.2.0\"", " ", long, "}"),
    ];
    let file = image.0.path("config.json");
    let name = file.to_str().unwrap();
    for (number, document) in sample(documents.iter().enumerate(), 8) {
        File::create(&file).unwrap().write_all(document().as_bytes()).unwrap();
        let what = format!("document {number}");
        refused(&image.run(), &what);
        refused(&image.nspod(&["--security-opt", &format!("seccomp={name}")], &["true"]), &what);
        for verb in [&["exec", "--process", name][..], &["update", "--resources", name]] {
            let mut command = limited(OCI);
            command.args(other.raw(&[verb, &[&other.id]].concat()).get_args());
            sound(&other.run(&mut command), &format!("{verb:?} {what}"));
        }
    }
}

/// Texts that are no names.
fn texts() -> Vec<OsString> {
    let long = "x".repeat(5000);
    let mut texts: Vec<OsString> =
        ["", ".", "..", "a\nb", "../a", "a/../../b", "/a", "a b", "a:b", "ä", "\u{1b}[31m", &long]
            .map(Into::into)
            .into();
    texts.push(OsStr::from_bytes(b"\xff\xfe").into());
    texts.push(format!("{}a", "../".repeat(1600)).into());
    texts
}

#[test]
fn an_id_or_name_of_any_form_is_refused_and_makes_nothing() {
    if !able() {
        return;
    }
    let image = Image::new("true", |_| {});
    fs::create_dir(image.0.path("state")).unwrap();
    let before = run_with(Command::new("find").arg(image.0.path("")), "");
    for text in sample(texts(), 4) {
        for verb in
            ["run", "create", "start", "state", "kill", "delete", "exec", "pause", "events", "ps", "update"]
        {
            let mut command = limited(OCI);
            command.arg("--root").arg(image.0.path("state")).arg(verb);
            command.arg("--").arg(&text).current_dir(image.0.path(""));
            if verb == "exec" {
                command.arg("true");
            }
            refused(&run_with(&mut command, ""), &format!("{verb} {text:?}"));
        }
        for args in [
            &["run", "--name"][..],
            &["pod", "create"],
            &["rm"],
            &["exec"],
            &["inspect"],
            &["kill"],
            &["pod", "rm"],
        ] {
            let mut command = limited(NSPOD);
            command.args(args);
            // A separator keeps a name from being read as a flag.
            if args != ["run", "--name"] {
                command.arg("--");
            }
            let output = run_with(command.arg(&text).arg("true"), "");
            refused(&output, &format!("{args:?} {text:?}"));
        }
    }
    assert_eq!(run_with(Command::new("find").arg(image.0.path("")), "").ok(), before.ok());
}

#[test]
fn a_text_of_any_form_in_the_configuration_ends_in_success_or_a_sentence() {
    if !able() {
        return;
    }
    let image = Image::new("true", |_| {});
    let before = image.host();
    let pristine: Value = serde_json::from_slice(&fs::read(image.0.path("config.json")).unwrap()).unwrap();
    let long = "x".repeat(5000);
    let path = format!("/{}", "x/".repeat(3000));
    // A runtime that sends texts with 16-bit lengths once overwrote its settings with them: CVE-2021-43784.
    let longer = "/y".repeat(70_000 / 2);
    let texts = [
        "",
        ".",
        "..",
        "a\nb",
        "/a\n/b",
        "a\0b",
        "/../../a",
        "/a/../../../../b",
        &long,
        &path,
        &longer,
        "\u{fffd}\u{1b}[31m",
    ];
    type Set = fn(&mut Value, &str);
    let fields: [(&str, Set); 21] = [
        ("root.path", |c, t| c["root"]["path"] = t.into()),
        ("process.cwd", |c, t| c["process"]["cwd"] = t.into()),
        ("process.args[0]", |c, t| c["process"]["args"] = json!([t])),
        ("process.args[1]", |c, t| c["process"]["args"] = json!(["true", t])),
        ("process.env", |c, t| c["process"]["env"] = json!([t])),
        ("process.env value", |c, t| c["process"]["env"] = json!([format!("PATH=/bin:{t}")])),
        ("process.rlimits", |c, t| c["process"]["rlimits"] = json!([{ "type": t, "soft": 1, "hard": 1 }])),
        ("process.apparmorProfile", |c, t| c["process"]["apparmorProfile"] = t.into()),
        ("mounts.destination", |c, t| c["mounts"][1]["destination"] = t.into()),
        ("mounts.source", |c, t| {
            c["mounts"][1] = json!({ "destination": "/m", "source": t, "options": ["bind"] });
        }),
        ("mounts.type", |c, t| c["mounts"][1]["type"] = t.into()),
        ("mounts.options", |c, t| c["mounts"][1]["options"] = json!([t])),
        ("hostname", |c, t| c["hostname"] = t.into()),
        ("domainname", |c, t| c["domainname"] = t.into()),
        ("devices.path", |c, t| c["linux"]["devices"] = json!([{ "type": "p", "path": t }])),
        ("maskedPaths", |c, t| c["linux"]["maskedPaths"] = json!([t])),
        ("readonlyPaths", |c, t| c["linux"]["readonlyPaths"] = json!([t])),
        ("cgroupsPath", |c, t| {
            c["linux"]["cgroupsPath"] = format!("/{}/{t}", c["x-cgroups"].as_str().unwrap()).into()
        }),
        ("namespaces.path", |c, t| c["linux"]["namespaces"] = json!([{ "type": "network", "path": t }])),
        ("annotations", |c, t| c["annotations"] = json!({ t: t })),
        ("sysctl", |c, t| c["linux"]["sysctl"] = json!({ "kernel.domainname": t })),
    ];
    let cgroups = unique();
    let mut runs = 0;
    for (name, set) in fields {
        for text in texts {
            runs += 1;
            if is_slow() && runs % 25 != 0 {
                continue;
            }
            let mut config = pristine.clone();
            config["x-cgroups"] = cgroups.as_str().into();
            set(&mut config, text);
            fs::write(image.0.path("config.json"), config.to_string()).unwrap();
            sound(&image.run(), &format!("{name} {text:.40?}"));
            assert_eq!(image.host(), before, "{name} {text:.40?}");
        }
    }
    assert!(!Path::new("/b").exists() && !image.0.path("b").exists());
    // The runtime removes the cgroup of a container, and not those above it.
    let top = cgroup_core::Hierarchy::detect().unwrap().mount_point().unwrap().join(cgroups);
    run_with(Command::new("find").arg(&top).args(["-depth", "-type", "d", "-delete"]), "");
    assert!(!top.exists());
}

#[test]
fn a_text_of_any_form_as_a_flag_ends_in_success_or_a_sentence() {
    if !able() {
        return;
    }
    let image = Image::new("true", |_| {});
    let before = image.host();
    let flags = [
        "-w",
        "-h",
        "-e",
        "--tmpfs",
        "--cgroup-parent",
        "--env-file",
        "-u",
        "-v",
        "--domainname",
        "--symlink",
    ];
    let mut runs = 0;
    for flag in flags {
        for text in texts() {
            runs += 1;
            if is_slow() && runs % 25 != 0 {
                continue;
            }
            let mut command = limited(NSPOD);
            command.args(["run", "--rootfs"]).arg(image.root("")).arg(flag);
            command.arg(&text).arg("true").current_dir(image.0.path("host"));
            sound(&run_with(&mut command, ""), &format!("{flag} {text:.40?}"));
            assert_eq!(image.host(), before, "{flag} {text:.40?}");
        }
    }
    // The program itself, and the directory of the root.
    for text in sample(texts(), 5) {
        let mut program = limited(NSPOD);
        program.args(["run", "--rootfs"]).arg(image.root("")).arg("--").arg(&text);
        refused(&run_with(&mut program, ""), &format!("program {text:.40?}"));
        let mut rootfs = limited(NSPOD);
        rootfs.args(["run", "--rootfs"]).arg(image.0.path("host").join(&text)).arg("true");
        refused(&run_with(&mut rootfs, ""), &format!("root {text:.40?}"));
    }
}
