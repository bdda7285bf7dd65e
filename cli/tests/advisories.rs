//! Published attacks on container runtimes. Each attack first succeeds against a naive runtime, a few lines of shell,
//! and then fails against nspod and nspod-oci. SECURITY.md has the list of advisories with their tests.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use common::bundle::Bundle;
use common::{NSPOD, Name, OCI, Output, nspod, ok, programs, root, run_with};
use serde_json::json;

/// Returns all of these, or each `step`th in the emulated guest, which is slow.
fn sample<T>(all: impl IntoIterator<Item = T>, step: usize) -> impl Iterator<Item = T> {
    all.into_iter().step_by(if nspod_testkit::is_slow() { step } else { 1 })
}

/// Returns whether the tests can run: as root, with the tools of the naive runtimes.
fn able() -> bool {
    root() && programs(&["unshare", "busybox", "setpriv"])
}

/// Creates a bundle beside `host`, a directory of the host with the file `secret`.
fn bundle(script: &str, change: impl FnOnce(&mut serde_json::Value)) -> Bundle {
    let bundle = Bundle::changed(script, change);
    fs::create_dir(bundle.path("host")).unwrap();
    fs::write(bundle.path("host/secret"), "secret").unwrap();
    bundle
}

/// Runs a script as the naive runtime, in the directory of the bundle and in a mount namespace of its own.
fn naive(bundle: &Bundle, flags: &[&str], script: &str) -> Output {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]).args(flags).args(["sh", "-ec", script]);
    run_with(command.current_dir(bundle.path("")), "")
}

/// Checks that the host's directory is unchanged.
#[track_caller]
fn untouched(bundle: &Bundle) {
    assert_eq!(fs::read_to_string(bundle.path("host/secret")).unwrap(), "secret");
    assert_eq!(fs::read_dir(bundle.path("host")).unwrap().count(), 1);
}

/// Removes the mounts of a configuration, except these.
fn only_mounts(config: &mut serde_json::Value, kept: &[&str]) {
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| kept.contains(&mount["destination"].as_str().unwrap()));
}

/// CVE-2019-5736: the image's program is a link to the program of the runtime, which the container then overwrites.
#[test]
fn the_program_of_the_runtime_cannot_be_overwritten() {
    if !able() {
        return;
    }
    const ATTACK: &str = "exec 3</proc/self/exe; exec /bin/busybox sh -c 'echo evil >/proc/self/fd/3'";
    // Another process of the container tries all programs that it sees.
    const WATCH: &str = "while :; do for exe in /proc/[0-9]*/exe; do echo evil >$exe; done; done 2>/dev/null";
    let image = bundle("", |config| config["process"]["args"] = json!(["/sh", "-c", ATTACK]));
    symlink("/proc/self/exe", image.path("rootfs/sh")).unwrap();
    fs::write(image.path("rootfs/script"), "#!/proc/self/exe sh\n").unwrap();
    run_with(Command::new("chmod").arg("755").arg(image.path("rootfs/script")), "").ok();

    nspod_testkit::copy_program(image.path("rootfs/bin/busybox"), image.path("chroot"));
    let script = "mount -t proc proc rootfs/proc; exec ./chroot rootfs /sh -c \"$0\"";
    let mut control = Command::new("unshare");
    control.args(["--mount", "--propagation", "private", "--pid", "--fork", "sh", "-ec", script, ATTACK]);
    let output = run_with(control.current_dir(image.path("")), "");
    assert!(fs::read(image.path("chroot")).unwrap() == b"evil\n", "{output:?}");

    for (program, name) in [(OCI, "nspod-oci"), (NSPOD, "nspod")] {
        nspod_testkit::copy_program(program, image.path(name));
    }
    let oci = |args: &[&str]| {
        let mut command = Command::new(image.path("nspod-oci"));
        command.arg("--root").arg(image.path("state")).args(args).current_dir(image.path(""));
        image.run(&mut command)
    };
    assert_ne!(oci(&["run", &image.id]).code(), 0);
    let rootfs = image.path("rootfs");
    let ours = |args: &[&str]| {
        let mut command = Command::new(image.path("nspod"));
        run_with(command.args(["run", "--rootfs"]).arg(&rootfs).args(args), "")
    };
    for flags in [&["--init"][..], &["--init=false"]] {
        assert_ne!(ours(&[flags, &["/sh", "-c", ATTACK]].concat()).code(), 0);
        assert_ne!(ours(&[flags, &["/script"]].concat()).code(), 0);
    }
    image.edit(|config| config["process"]["args"] = json!(["sh", "-c", WATCH]));
    oci(&["run", "--detach", &image.id]).ok();
    for program in sample(["/sh", "/script", "/bin/true", "/proc/self/exe", "/proc/1/exe"], 2) {
        for _ in 0..nspod_testkit::rounds(10) {
            let _ = oci(&["exec", &image.id, program]);
        }
    }
    oci(&["delete", "--force", &image.id]).ok();
    for (program, name) in [(OCI, "nspod-oci"), (NSPOD, "nspod")] {
        assert!(fs::read(program).unwrap() == fs::read(image.path(name)).unwrap(), "{name} was overwritten");
    }
}

/// CVE-2024-21626: the working directory is a directory of the host that the runtime has open.
#[test]
fn a_descriptor_of_the_host_is_no_working_directory() {
    if !able() {
        return;
    }
    let image = bundle("cat secret", |_| {});
    let script = "mount -t proc proc rootfs/proc; exec 9<host; exec chroot rootfs sh -c 'cd /proc/self/fd/9; cat secret'";
    assert_eq!(naive(&image, &[], script).ok(), "secret");

    let leaking = |command: &Command| {
        let mut leaking = Command::new("sh");
        leaking
            .args(["-c", "exec 9<host; exec \"$@\"", "sh"])
            .arg(command.get_program())
            .args(command.get_args());
        leaking.current_dir(image.path(""));
        leaking
    };
    let other = Bundle::new("sleep 1000");
    other.verb(&["run", "--detach"]).ok();
    for number in sample([3, 4, 5, 6, 7, 8, 9, 10], 6) {
        let cwd = format!("/proc/self/fd/{number}");
        image.edit(|config| config["process"]["cwd"] = json!(cwd));
        let run = image.run(&mut leaking(&image.raw(&["run", &image.id])));
        let exec = other.raw(&["exec", "--cwd", &cwd, &other.id, "sh", "-c", "cat secret; cat host/secret"]);
        for output in [run, image.run(&mut leaking(&exec))] {
            assert!(output.code() != 0 && !output.out.contains("secret"), "{cwd}: {output:?}");
        }
    }
    untouched(&image);
}

/// CVE-2025-31133, CVE-2025-62161: `/dev/null` of the image is a link, so that a masked file shows the link's target.
#[test]
fn a_path_is_not_masked_with_a_file_that_a_link_names() {
    if !able() {
        return;
    }
    let image = bundle("cat /masked", |config| {
        only_mounts(config, &["/proc"]);
        config["linux"]["maskedPaths"] = json!(["/masked"]);
    });
    let null = image.path("rootfs/dev/null");
    fs::write(image.path("rootfs/masked"), "of the image").unwrap();
    symlink(image.path("host/secret"), &null).unwrap();
    let control = naive(&image, &[], "mount --bind rootfs/dev/null rootfs/masked; cat rootfs/masked");
    assert_eq!(control.ok(), "secret");

    for target in [image.path("host/secret"), "/masked".into(), "/proc/sys/kernel/core_pattern".into()] {
        fs::remove_file(&null).unwrap();
        symlink(&target, &null).unwrap();
        let output = image.verb(&["run"]);
        assert!(output.code() != 0 && output.err.contains("/dev/null"), "{output:?}");
        assert_eq!(output.out, "");
    }
    // With the real device, the masked file is empty.
    fs::remove_file(&null).unwrap();
    assert_eq!(image.verb(&["run"]).ok(), "");
    untouched(&image);
}

/// CVE-2025-52565: `/dev/console` of the image is a link, so that the terminal is mounted on the link's target.
#[test]
fn the_terminal_is_not_mounted_where_a_link_leads() {
    if !able() {
        return;
    }
    let image = bundle("true", |config| {
        only_mounts(config, &["/proc"]);
        config["process"]["terminal"] = json!(true);
    });
    let console = image.path("rootfs/dev/console");
    symlink(image.path("host/secret"), &console).unwrap();
    let control =
        naive(&image, &[], "mount --bind /dev/null rootfs/dev/console; test -c host/secret && echo device");
    assert_eq!(control.ok(), "device\n");

    for target in [image.path("host/secret"), "/proc/sys/kernel/core_pattern".into(), "../etc/target".into()]
    {
        fs::remove_file(&console).unwrap();
        symlink(&target, &console).unwrap();
        let output = image.verb(&["run"]);
        assert!(output.code() != 0 && output.err.contains("/dev/console"), "{output:?}");
    }
    untouched(&image);
}

/// CVE-2025-52881, CVE-2025-62596, CVE-2019-16884: files in `/proc` are redirected, so that the runtime writes a
/// setting of the container to another file, or to none.
#[test]
fn settings_are_not_written_where_the_container_redirects_them() {
    if !able() {
        return;
    }
    let set = |config: &mut serde_json::Value| {
        config["linux"]["sysctl"] = json!({ "kernel.shmmni": "77" });
        config["linux"]["maskedPaths"] = json!([]);
        config["linux"]["readonlyPaths"] = json!([]);
    };
    let image = bundle("cat /real/sys/kernel/shmmni", |config| {
        only_mounts(config, &[]);
        config["mounts"] = json!([{ "destination": "/real", "type": "proc", "source": "proc" }]);
        set(config);
    });
    fs::create_dir_all(image.path("rootfs/proc/sys/kernel")).unwrap();
    symlink(image.path("host/secret"), image.path("rootfs/proc/sys/kernel/shmmni")).unwrap();
    naive(&image, &[], "cp -r host other; echo 77 >rootfs/proc/sys/kernel/shmmni").ok();
    assert_eq!(fs::read_to_string(image.path("host/secret")).unwrap(), "77\n");
    fs::write(image.path("host/secret"), "secret").unwrap();
    assert_eq!(image.verb(&["run"]).ok(), "77\n");
    untouched(&image);

    // A container that may mount covers its own /proc before another process joins it.
    let fake = "mount -t tmpfs none /proc && mkdir -p /proc/self/attr /proc/thread-self/attr && cd /proc &&
        for file in self thread-self; do echo fake >$file/oom_score_adj; echo fake >$file/attr/exec; done;
        echo fake >uptime; touch /ready; sleep 1000";
    let image = bundle(&format!("/bin/busybox sh -c '{fake}'").replace("&& mount", "mount"), |config| {
        let all = json!(["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = all.clone();
        }
    });
    let names = ["mount", "mkdir", "touch"];
    names.iter().for_each(|name| symlink("busybox", image.path("rootfs/bin").join(name)).unwrap());
    image.verb(&["run", "--detach"]).ok();
    common::eventually("the container covers /proc", || image.path("rootfs/ready").exists());
    let process = json!({
        "args": ["sleep", "1000"], "cwd": "/", "oomScoreAdj": 77, "env": ["PATH=/bin"], "user": { "uid": 0, "gid": 0 },
    });
    fs::write(image.path("process"), process.to_string()).unwrap();
    image.verb(&["exec", "--detach", "--process", "process", "--pid-file", "pid"]).ok();
    let pid = fs::read_to_string(image.path("pid")).unwrap();
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap(), "77\n");
    let inside = Path::new("/proc").join(pid).join("root/proc");
    for file in ["self/oom_score_adj", "thread-self/oom_score_adj", "self/attr/exec", "thread-self/attr/exec"]
    {
        assert_eq!(fs::read_to_string(inside.join(file)).unwrap(), "fake\n", "{file}");
    }
}

/// CVE-2019-19921, CVE-2023-27561, CVE-2023-28642, CVE-2025-54867, CVE-2019-18837 and the advisories of 2026: `/proc`,
/// `/sys` or `/dev` of the image is a link.
#[test]
fn a_link_in_place_of_proc_sys_or_dev_is_not_followed() {
    if !able() {
        return;
    }
    for name in sample(["proc", "sys", "dev"], 2) {
        let image = bundle("true", |_| {});
        let link = image.path("rootfs").join(name);
        fs::remove_dir(&link).unwrap();
        symlink(image.path("host"), &link).unwrap();
        let script = format!("mount -t tmpfs none rootfs/{name}; echo changed >host/secret; cat host/secret");
        assert_eq!(naive(&image, &[], &script).ok(), "changed\n");
        untouched(&image);

        let inside = image.path("rootfs/elsewhere");
        fs::create_dir(inside).unwrap();
        let targets =
            [image.path("host"), "/elsewhere".into(), "../../../../../../../..".into(), name.into()];
        for target in sample(targets, 3) {
            fs::remove_file(&link).unwrap();
            symlink(&target, &link).unwrap();
            let path = image.path("rootfs");
            let ours = nspod(&["run", "--rootfs", path.to_str().unwrap(), "true"]);
            for output in [image.verb(&["run"]), ours] {
                let named = output.err.contains(&format!("/{name}")) && output.err.contains("ELOOP");
                assert!(output.code() != 0 && named, "{}: {output:?}", target.display());
            }
        }
        assert_eq!(fs::read_dir(image.path("rootfs/elsewhere")).unwrap().count(), 0);
        untouched(&image);
    }
}

/// CVE-2022-0492: a container makes namespaces of its own, and mounts a cgroup file system in them to write
/// `release_agent`.
#[test]
fn a_container_mounts_no_cgroup_file_system() {
    if !able() {
        return;
    }
    const ATTACK: &str =
        "unshare --user --map-root-user --mount --cgroup sh -c 'mount -t cgroup2 none /tmp && echo mounted'";
    let control = run_with(Command::new("sh").args(["-c", ATTACK]), "");
    assert_eq!(control.ok(), "mounted\n");
    for flags in
        [&[][..], &["--userns", "auto"], &["--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined"]]
    {
        // A container that may mount nevertheless sees no hierarchy with the file.
        let may_mount = flags.contains(&"SYS_ADMIN");
        let script = match may_mount {
            false => ATTACK,
            true => "find /sys/fs/cgroup -name release_agent | head -1",
        };
        let output = nspod(&[&["run"], flags, &["sh", "-c", script]].concat());
        assert!(
            !output.out.contains("mounted") && !output.out.contains("release_agent"),
            "{flags:?}: {output:?}"
        );
        assert_eq!(output.code() == 0, may_mount, "{flags:?}: {output:?}");
    }
}

/// CVE-2022-24769, CVE-2022-27650, CVE-2022-29162, CVE-2025-27612: inheritable capabilities, which a file with
/// capabilities makes permitted.
#[test]
fn no_capability_is_inheritable_unless_the_configuration_says_so() {
    if !able() {
        return;
    }
    const SETS: [&str; 3] = ["grep", "Cap[IA]", "/proc/self/status"];
    const NONE: &str = "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n";
    let careless = |program: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--inh-caps", "+net_raw", program]);
        command
    };
    let control = run_with(careless(SETS[0]).args(&SETS[1..]), "");
    assert!(control.ok().starts_with("CapInh:\t0000000000002000\n"), "{control:?}");

    let image = bundle("grep Cap[IA] /proc/self/status", |_| {});
    symlink("busybox", image.path("rootfs/bin/grep")).unwrap();
    assert_eq!(
        image
            .run(careless(OCI).args(image.raw(&["run", &image.id]).get_args()).current_dir(image.path("")))
            .ok(),
        NONE
    );
    let container = Name::detached(&[], &["sleep", "1000"]);
    let other = Bundle::new("sleep 1000");
    symlink("busybox", other.path("rootfs/bin/grep")).unwrap();
    other.verb(&["run", "--detach"]).ok();
    let ours: [(&str, &[&str]); 3] =
        [("run", &[]), ("run", &["--cap-add", "SYS_ADMIN"]), ("exec", &[&container])];
    for (verb, flags) in ours {
        let output = run_with(careless(NSPOD).arg(verb).args(flags).args(SETS), "");
        assert_eq!(output.ok(), NONE, "{verb} {flags:?}");
    }
    for flags in [&[][..], &["--cap", "CAP_NET_RAW"], &["--cap", "CAP_SYS_ADMIN"]] {
        let args = [&["exec"], flags, &[&other.id], &SETS].concat();
        let output = other.run(careless(OCI).args(other.raw(&args).get_args()));
        assert_eq!(output.ok(), NONE, "{flags:?}");
    }
}

/// CVE-2016-3697: the image has a user with uid 0 whose name is a number.
#[test]
fn a_number_is_not_the_name_of_a_user() {
    if !able() {
        return;
    }
    let image = bundle("true", |_| {});
    let passwd = "1000:x:0:0::/root:/bin/sh\n01:x:0:0::/:\nreal:x:5:6::/:\n";
    fs::write(image.path("rootfs/etc/passwd"), passwd).unwrap();
    fs::write(image.path("rootfs/etc/group"), "1000:x:0:\nreal:x:6:\n").unwrap();
    // The naive lookup takes the first line with this name.
    let naive = passwd.lines().find(|line| line.split(':').next() == Some("1000")).unwrap();
    assert_eq!(naive.split(':').nth(2), Some("0"));

    let path = image.path("rootfs");
    let ids = |user: &str| {
        let flags = ["run", "--rootfs", path.to_str().unwrap(), "-u", user];
        ok(&[&flags[..], &["sh", "-c", "echo $(id -u) $(id -g) $(id -G)"]].concat())
    };
    for (user, found) in
        [("1000", "1000 0 0"), ("1000:1000", "1000 1000 1000"), ("01", "1 0 0"), ("real", "5 6 6")]
    {
        assert_eq!(ids(user).trim_end(), found, "{user}");
    }
}

/// CVE-2024-40635: an id above the kernel's maximum wraps around to 0. The id `-1` changes nothing in setresuid(2).
#[test]
fn an_id_beyond_the_maximum_is_not_root() {
    if !able() {
        return;
    }
    const BEYOND: [u64; 5] = [u32::MAX as u64, 1 << 32, (1 << 32) + 5, 1 << 63, u64::MAX];
    assert_eq!(BEYOND[1] as u32, 0);
    let image = bundle("id", |_| {});
    // A number is not a name either.
    let names = |rest: &str| BEYOND.map(|id| format!("{id}{rest}")).concat();
    fs::write(image.path("rootfs/etc/passwd"), names(":x:0:0::/:\n")).unwrap();
    fs::write(image.path("rootfs/etc/group"), names(":x:0:\n")).unwrap();
    let path = image.path("rootfs");
    let ours = ["run", "--rootfs", path.to_str().unwrap(), "-u"];
    for id in sample(BEYOND, 4) {
        let user = format!("{id}:{id}");
        for value in sample([user.clone(), id.to_string(), format!("7:{id}"), format!("{id}:7")], 2) {
            let output = nspod(&[&ours[..], &[&value, "id"]].concat());
            assert!(
                output.code() != 0 && output.out.is_empty() && !output.err.is_empty(),
                "{value}: {output:?}"
            );
        }
        for field in ["uid", "gid"] {
            image.edit(|config| config["process"]["user"] = json!({ "uid": 7, "gid": 7, field: id }));
            let output = image.verb(&["run"]);
            assert!(
                output.code() != 0 && output.out.is_empty() && !output.err.is_empty(),
                "{field} {id}: {output:?}"
            );
        }
        image
            .edit(|config| config["process"]["user"] = json!({ "uid": 7, "gid": 7, "additionalGids": [id] }));
        assert_ne!(image.verb(&["run"]).code(), 0, "additional group {id}");
    }
}

/// CVE-2022-0811: the value of a harmless sysctl contains another one.
#[test]
fn a_sysctl_contains_no_other() {
    if !able() {
        return;
    }
    const PATTERN: &str = "/proc/sys/kernel/core_pattern";
    const VALUE: &str = "1+kernel.core_pattern=|evil";
    // The naive parser separates settings by `+`.
    let naive: Vec<_> = ["kernel.shm_rmid_forced=", VALUE].concat().split('+').map(str::to_owned).collect();
    assert_eq!(naive, ["kernel.shm_rmid_forced=1", "kernel.core_pattern=|evil"]);

    let before = fs::read(PATTERN).unwrap();
    let settings = [
        ("kernel.shm_rmid_forced", VALUE),
        ("kernel.shm_rmid_forced", "1\nkernel.core_pattern=|evil"),
        ("kernel.shm_rmid_forced=1+kernel.core_pattern", "|evil"),
        ("kernel.shm_rmid_forced\0", "1"),
        ("kernel.core_pattern", "|evil"),
        ("net/../kernel/core_pattern", "|evil"),
        ("net.ipv4/../../kernel/core_pattern", "|evil"),
        ("net....kernel.core_pattern", "|evil"),
        ("kernel//core_pattern", "|evil"),
        ("/proc/sys/kernel/core_pattern", "|evil"),
    ];
    for (name, value) in sample(settings, 5) {
        let image = bundle("true", |config| config["linux"]["sysctl"] = json!({ name: value }));
        let output = image.verb(&["run"]);
        // The kernel ignores the text after the line end.
        let ignored = value.contains('\n');
        assert!(ignored || output.code() != 0 && !output.err.is_empty(), "{name}: {output:?}");
        if !name.contains('\0') {
            let output = nspod(&["run", "--sysctl", &format!("{name}={value}"), "true"]);
            assert!(ignored || output.code() != 0 && !output.err.is_empty(), "{name}: {output:?}");
        }
        assert_eq!(fs::read(PATTERN).unwrap(), before, "{name}");
    }
}

/// CVE-2025-24965: the runtime writes a file of its own into the image, where a link leads to the host.
#[test]
fn an_image_gets_no_file_of_the_runtime() {
    if !able() {
        return;
    }
    let image = bundle("sleep 1000", |_| {});
    let links = [".krun_config.json", ".krun_vm.json", ".containerenv", ".dockerenv", "exec.fifo", "run"];
    for name in links {
        symlink(image.path("host/new"), image.path("rootfs").join(name)).unwrap();
    }
    naive(&image, &[], "echo '{}' >rootfs/.krun_config.json").ok();
    fs::remove_file(image.path("host/new")).unwrap();

    let listed =
        || run_with(Command::new("find").arg(image.path("rootfs")).args(["-printf", "%p %y %m %U %l\n"]), "");
    let before = listed();
    image.verb(&["create"]).ok();
    image.verb(&["start"]).ok();
    image.command(&["exec", &image.id, "true"]).ok();
    image.verb(&["delete", "--force"]).ok();
    let path = image.path("rootfs");
    ok(&["run", "--rootfs", path.to_str().unwrap(), "true"]);
    assert_eq!(before.ok(), listed().ok());
    untouched(&image);
}
