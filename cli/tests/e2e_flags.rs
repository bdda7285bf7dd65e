//! The effect of each flag of `nspod run`, observed inside the container.

mod common;

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use common::{Name, json, nspod, ok, root};

/// Returns the output of a shell in a container.
#[track_caller]
fn sh(flags: &[&str], script: &str) -> String {
    ok(&[&["run"], flags, &["sh", "-c", script]].concat())
}

/// Returns a field of /proc/self/status in a container.
#[track_caller]
fn status(flags: &[&str], field: &str) -> String {
    let text = ok(&[&["run"], flags, &["cat", "/proc/self/status"]].concat());
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t"));
    line.unwrap_or_else(|| panic!("no {field} in {text}")).into()
}

#[test]
fn a_program_is_alone_with_its_init() {
    if !root() {
        return;
    }
    let seen = sh(&[], "echo $$; ls -d /proc/[0-9]* | wc -l; ls /sys/class/net; hostname");
    let lines: Vec<_> = seen.lines().collect();
    assert_eq!((lines[0], lines[2]), ("2", "lo"));
    // The init, the shell and the two processes of the pipe.
    assert!(lines[1].trim().parse::<u32>().unwrap() <= 5, "{seen}");
    // The random id.
    assert!(lines[3].len() == 12 && lines[3].bytes().all(|b| b.is_ascii_hexdigit()), "{seen}");
}

#[test]
fn only_named_variables_of_the_caller_reach_the_container() {
    if !root() {
        return;
    }
    let seen = sh(&["-e", "A=1 2", "-e", "HOME"], "env; ls /proc/self/fd | wc -l; pwd; umask");
    assert!(seen.contains("A=1 2\n") && seen.contains("PATH=/usr/local/sbin:"), "{seen}");
    assert!(!seen.contains("CARGO"), "{seen}");
    // Standard input, output and error, and the descriptor that ls opens.
    assert!(seen.ends_with("4\n/\n0022\n"), "{seen}");
    // Rust programs ignore SIGPIPE; programs in a container must not inherit this.
    let ignored = u64::from_str_radix(&status(&[], "SigIgn"), 16).unwrap();
    assert_eq!(ignored & 1 << 12, 0);
    assert_eq!(status(&[], "SigBlk"), "0000000000000000");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "# no\nB=file\nC=file\n").unwrap();
    let seen = sh(&["--env-file", file.path().to_str().unwrap(), "-e", "C=flag"], "echo $B $C");
    assert_eq!(seen, "file flag\n");
}

#[test]
fn the_environment_of_the_caller_is_kept_on_request() {
    if !root() {
        return;
    }
    let name = Name::detached(&[], &["sleep", "1000"]);
    let seen = |flags: &[&str]| {
        let script = "echo $NSPOD_TEST_KEPT $HOME $PATH";
        let mut command = std::process::Command::new(common::NSPOD);
        command.args(flags).args([if flags[0] == "exec" { &*name } else { "--" }, "sh", "-c", script]);
        command.env_clear().envs([
            ("NSPOD_TEST_KEPT", "there"),
            ("HOME", "/home/x"),
            ("PATH", "/bin:/usr/bin"),
        ]);
        common::run_with(&mut command, "").ok().to_owned()
    };
    assert!(seen(&["run"]).starts_with("/root /usr/local/sbin:"));
    let kept = "there /home/x /bin:/usr/bin\n";
    assert_eq!([seen(&["run", "--keep-env"]), seen(&["run", "--env-host"])], [kept, kept]);
    assert_eq!(seen(&["exec", "--keep-env"]), kept);
    let replaced = seen(&["run", "--keep-env", "-u", "nobody", "-e", "NSPOD_TEST_KEPT=flag"]);
    assert_eq!(replaced, "flag /nonexistent /bin:/usr/bin\n");
}

#[test]
fn a_symbolic_link_is_made_in_the_container() {
    if !root() {
        return;
    }
    let flags = ["--tmpfs", "/mnt", "--symlink", "usr/bin:/mnt/a/bin", "--symlink", "no:/etc/hostname"];
    assert_eq!(sh(&flags, "readlink /mnt/a/bin; test -f /etc/hostname && echo file"), "usr/bin\nfile\n");
    let refused = nspod(&["pod", "create", "--share", "mnt", "--symlink", "a:/tmp/b", &common::unique()]);
    assert!(refused.code() == 125 && refused.err.contains("--symlink for its containers"), "{}", refused.err);
}

#[test]
fn a_root_is_made_of_mounts_and_links() {
    if !root() {
        return;
    }
    let links = ["bin", "sbin", "lib", "lib64"].map(|name| format!("usr/{name}:/{name}"));
    let mut args = vec!["run", "--tmpfs", "/", "-v", "/usr:/usr:ro"];
    args.extend(links.iter().flat_map(|link| ["--symlink", link]));
    args.extend(["sh", "-c", "echo /*; readlink /bin; touch /x 2>/dev/null || echo read-only"]);
    let seen = "/bin /dev /lib /lib64 /proc /run /sbin /sys /tmp /usr\nusr/bin\nread-only\n";
    assert_eq!(ok(&args), seen);
    assert_eq!(common::user::User::new().nspod(&args).ok(), seen);
}

#[test]
fn an_optional_bind_is_left_out_if_its_source_is_missing() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), "there\n").unwrap();
    let flags = |source: &str| {
        let volume = format!("{source}:/mnt:optional");
        let mount = format!("type=bind,src={source},dst=/var/lib,optional");
        ["-v".to_owned(), volume, "--mount".to_owned(), mount]
    };
    let seen = |source: &str| {
        let flags = flags(source);
        sh(&flags.each_ref().map(String::as_str), "cat /mnt/f /var/lib/f 2>/dev/null; ls /var/lib | wc -w")
    };
    assert_eq!(seen(dir.path().to_str().unwrap()), "there\nthere\n1\n");
    assert!(!seen("/no/such").contains("there") && seen("/etc/passwd/no-such") != "1\n");
    assert_eq!(nspod(&["run", "-v", "/no/such:/mnt", "true"]).code(), 125);
}

#[test]
fn a_volume_receives_later_mounts_of_the_host_on_request() {
    if !root() {
        return;
    }
    let long = "type=bind,src=/mnt,dst=/mnt,propagation";
    for (flag, value, want) in [
        ("-v", "/mnt:/mnt", ""),
        ("-v", "/mnt:/mnt:rslave", "f\n"),
        ("--mount", &format!("{long}=rslave"), "f\n"),
    ] {
        let script = format!(
            "mount -t tmpfs none /mnt; mount --make-shared /mnt; mkdir /mnt/sub
            $N run -d --name x {flag} {value} sleep 1000 >/dev/null
            mount -t tmpfs none /mnt/sub; touch /mnt/sub/f
            $N exec x ls /mnt/sub; $N rm -f x >/dev/null"
        );
        assert_eq!(common::alone(&script).ok(), want, "{flag} {value}");
    }
}

#[test]
fn new_user_namespaces_are_denied_on_request() {
    if !root() {
        return;
    }
    let user = common::user::User::new();
    // Python calls clone(2) and unshare(2) itself; the number of clone3 is the same on all architectures.
    let script = "import ctypes,errno
c = ctypes.CDLL(None, use_errno=True)
done = lambda r: 'made' if r >= 0 else errno.errorcode[ctypes.get_errno()]
print(done(c.syscall(435, None, 0)), done(c.unshare(0x20000)), done(c.unshare(0x10000000)))";
    for flags in [&["--privileged"][..], &["--userns=new", "--cap-add", "SYS_ADMIN"]] {
        let run = |more: &[&'static str]| [&["run"], flags, more, &["python3", "-c", script]].concat();
        let (free, denied) = (run(&[]), run(&["--disable-userns"]));
        assert_eq!(ok(&free), "EINVAL made made\n", "{flags:?}");
        assert_eq!(ok(&denied), "ENOSYS made EPERM\n", "{flags:?}");
        if flags[0] != "--privileged" {
            assert_eq!(user.nspod(&denied).ok(), "ENOSYS made EPERM\n", "{flags:?}");
        }
    }
    let name = Name::detached(&["--privileged", "--disable-userns"], &["sleep", "1000"]);
    assert_eq!(ok(&["exec", &name, "python3", "-c", script]), "ENOSYS made EPERM\n");
}

#[test]
fn the_requested_user_and_working_directory_are_set() {
    if !root() {
        return;
    }
    let script = "id -u; id -g; id -G; pwd; hostname; echo $HOME";
    assert_eq!(sh(&["-u", "1234:77", "-w", "/usr", "-h", "box"], script), "1234\n77\n77\n/usr\nbox\n/\n");
    let nobody = sh(&["-u", "nobody", "--group-add", "5", "-h", "box"], script);
    assert_eq!(nobody, "65534\n65534\n65534 5\n/\nbox\n/nonexistent\n");
    assert_eq!(sh(&["--domainname", "dom"], "cat /proc/sys/kernel/domainname"), "dom\n");
    assert_eq!(sh(&["--umask", "027"], "umask"), "0027\n");
}

#[test]
fn a_volume_is_a_directory_of_the_host_writable_or_read_only() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (path, file) = (dir.path().to_str().unwrap(), dir.path().join("f"));
    std::fs::write(&file, "old\n").unwrap();
    assert_eq!(sh(&["-v", &format!("{path}:/mnt")], "echo new > /mnt/f; cat /mnt/f"), "new\n");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "new\n");
    let refused =
        nspod(&["run", "-v", &format!("{path}:/mnt:ro"), "sh", "-c", "cat /mnt/f; echo x > /mnt/f"]);
    assert_eq!((refused.code(), refused.out.as_str()), (2, "new\n"));
    assert!(refused.err.contains("Read-only file system"), "{}", refused.err);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "new\n");
    // A file mounted on a file, and the long form of the flag.
    let long = format!("type=bind,source={path}/f,target=/etc/hostname,readonly");
    assert_eq!(sh(&["--mount", &long], "cat /etc/hostname"), "new\n");
    // The mounts do not propagate to the host.
    assert!(!std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(path));
}

#[test]
fn a_tmpfs_has_its_size_and_is_private() {
    if !root() {
        return;
    }
    let seen = sh(
        &["--tmpfs", "/mnt:size=1m,mode=700"],
        "stat -c %a /mnt; head -c 3m /dev/zero 2>/dev/null > /mnt/x; head -c 3145728 /dev/zero > /mnt/x 2>/dev/null; stat -c %s /mnt/x",
    );
    assert_eq!(seen.lines().collect::<Vec<_>>(), ["700", "1048576"]);
    assert!(!Path::new("/mnt/x").exists());
    // A tmpfs over a private directory has the mode of the directory, so other users cannot write to it.
    let mode = std::fs::metadata("/root").unwrap().permissions().mode() & 0o7777;
    let seen = sh(&["--tmpfs", "/root", "--mount", "type=tmpfs,target=/tmp"], "stat -c %a /root /tmp");
    assert_eq!(seen.lines().collect::<Vec<_>>(), [&format!("{mode:o}"), "1777"]);
    let refused = nspod(&["run", "-v", "/tmp:/proc/sys", "true"]);
    assert!(
        refused.err.contains("/proc/sys cannot be mounted because it is inside /proc"),
        "{}",
        refused.err
    );
}

#[test]
fn the_host_is_read_only_and_an_overlay_receives_the_writes() {
    if !root() {
        return;
    }
    for flags in [&[][..], &["--read-only"]] {
        let script =
            "touch /e2e-x 2>/dev/null || echo refused; touch /tmp/x /run/x /dev/shm/x && ls /tmp /run";
        assert_eq!(sh(flags, script), "refused\n/run:\nx\n\n/tmp:\nx\n", "{flags:?}");
    }
    assert_eq!(sh(&["--overlay"], "echo w > /e2e-x; rm -r /usr/share/doc; cat /e2e-x"), "w\n");
    assert!(!Path::new("/e2e-x").exists() && Path::new("/usr/share/doc").exists());
    let dir = tempfile::tempdir().unwrap();
    let overlay = format!("--overlay={}", dir.path().display());
    sh(&[&overlay], "echo kept > /root/e2e-kept");
    assert_eq!(std::fs::read_to_string(dir.path().join("upper/root/e2e-kept")).unwrap(), "kept\n");
    assert_eq!(sh(&[&overlay], "cat /root/e2e-kept"), "kept\n");
}

#[test]
fn a_container_with_its_own_root_sees_nothing_else() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for made in ["bin", "etc"] {
        std::fs::create_dir(dir.path().join(made)).unwrap();
    }
    // nspod is linked statically, so it can run in this root.
    nspod_testkit::copy_program(common::NSPOD, dir.path().join("bin/nspod"));
    std::fs::write(dir.path().join("etc/passwd"), "inner:x:77:78::/etc:/bin/sh\n").unwrap();
    let flags = ["--rootfs", dir.path().to_str().unwrap(), "--tmpfs", "/run", "-u", "inner"];
    let run =
        |command: &[&str]| nspod(&[&["run"], &flags[..], &["-e", "XDG_RUNTIME_DIR=/run"], command].concat());
    assert_eq!(run(&["nspod", "ps", "--json"]).ok(), "[]\n");
    let missing = run(&["sh"]);
    assert_eq!(missing.code(), 127, "{}", missing.err);
    // nspod created only mount points in the directory, and no mount is left.
    assert_eq!(std::fs::read_dir(dir.path().join("proc")).unwrap().count(), 0);
}

#[test]
fn the_requested_capabilities_are_set() {
    if !root() {
        return;
    }
    let sets = |flags: &[&str]| ["CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb"].map(|f| status(flags, f));
    let none = "0000000000000000";
    let kill = "0000000000000020";
    assert_eq!(sets(&["--cap-drop", "ALL"]), [none; 5]);
    assert_eq!(sets(&["--cap-drop", "all", "--cap-add", "CAP_KILL"]), [kill, kill, kill, none, none]);
    let usual = sets(&[]);
    let bits = |set: &str| u64::from_str_radix(set, 16).unwrap();
    assert_eq!(bits(&sets(&["--cap-drop", "KILL"])[0]), bits(&usual[0]) & !bits(kill));
    assert_eq!(bits(&sets(&["--cap-add", "NET_ADMIN"])[1]), bits(&usual[1]) | 1 << 12);
    // The network can be changed with NET_ADMIN, but not without it.
    let down = ["ip", "link", "set", "lo", "down"];
    assert_ne!(nspod(&[&["run"], &down[..]].concat()).code(), 0);
    ok(&[&["run", "--cap-add", "NET_ADMIN"], &down[..]].concat());
}

#[test]
fn guards_can_be_chosen() {
    if !root() {
        return;
    }
    assert_eq!((status(&[], "NoNewPrivs"), status(&[], "Seccomp")), ("1".into(), "2".into()));
    assert_eq!(status(&["--security-opt", "no-new-privileges=false"], "NoNewPrivs"), "0");
    assert_eq!(status(&["--security-opt", "seccomp=unconfined"], "Seccomp"), "0");
    assert_eq!(status(&["--privileged"], "Seccomp"), "0");
    let profile = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        profile.path(),
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["uname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 42}]}"#,
    )
    .unwrap();
    let option = format!("seccomp={}", profile.path().display());
    let refused = nspod(&["run", "--security-opt", &option, "uname"]);
    assert_eq!((refused.code(), refused.out.as_str()), (1, ""), "{}", refused.err);
    assert_eq!(sh(&["--security-opt", &option], "echo fine"), "fine\n");
    // The profile in Docker's old form.
    let old = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "uname", "action": "SCMP_ACT_ERRNO", "args": []}]}"#;
    std::fs::write(profile.path(), old).unwrap();
    assert_eq!(nspod(&["run", "--security-opt", &option, "uname"]).code(), 1);
    let asking = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["uname"], "action": "SCMP_ACT_NOTIFY"}]}"#;
    std::fs::write(profile.path(), asking).unwrap();
    let refused = nspod(&["run", "--security-opt", &option, "uname"]);
    assert!(refused.code() == 125 && refused.err.contains("linux.seccomp.listenerPath"), "{}", refused.err);
}

#[test]
fn a_32_bit_program_runs_under_the_default_filter_and_a_kill_by_a_filter_is_reported() {
    if !root() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let program = root.path().join("prog");
    std::fs::write(&program, common::mkdir_of_i386()).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let run = |flags: &[&str]| {
        let output =
            nspod(&[&["run", "--rootfs", root.path().to_str().unwrap()], flags, &["/prog"]].concat());
        let _ = std::fs::remove_dir(root.path().join("made"));
        output
    };
    if run(&["--security-opt", "seccomp=unconfined"]).code() != 0 {
        return common::skip("this kernel runs no programs for i386");
    }
    run(&[]).ok();
    let profile = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(profile.path(), r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#).unwrap();
    let option = format!("seccomp={}", profile.path().display());
    for init in ["--init", "--init=false"] {
        let ended = run(&["--security-opt", &option, init]);
        assert_eq!(ended.code(), 128 + 31, "{}", ended.err);
        assert!(ended.err.contains("SIGSYS") && ended.err.contains("\"architectures\""), "{}", ended.err);
    }
}

#[test]
fn podmans_default_profile_is_accepted_unchanged() {
    const PROFILE: &str = "/usr/share/containers/seccomp.json";
    if !root() {
        return;
    }
    if !std::path::Path::new(PROFILE).exists() {
        return common::skip(
            "this test requires podman's default profile, in golang-github-containers-common",
        );
    }
    let option = format!("seccomp={PROFILE}");
    // The filter denies this call by name. If the call is allowed, it fails with EBADF.
    let vmsplice = "import ctypes; libc = ctypes.CDLL(None, use_errno=True); libc.vmsplice(-1, None, 0, 0); print(ctypes.get_errno())";
    assert_eq!(ok(&["run", "python3", "-c", vmsplice]), "9\n");
    for flags in [&[][..], &["--cap-add", "SYS_ADMIN"], &["--security-opt", "no-new-privileges=false"]] {
        let all = [&["--security-opt", &option], flags].concat();
        assert_eq!(sh(&all, "grep ^Seccomp: /proc/self/status"), "Seccomp:\t2\n");
        assert_eq!(ok(&[&["run"], &all[..], &["python3", "-c", vmsplice]].concat()), "1\n", "{flags:?}");
    }
}

#[test]
fn rlimits_oom_score_and_sysctls_are_set() {
    if !root() {
        return;
    }
    assert_eq!(
        sh(&["--ulimit", "nofile=10:20", "--ulimit", "core=0"], "ulimit -Sn; ulimit -Hn; ulimit -c"),
        "10\n20\n0\n"
    );
    assert_eq!(sh(&["--oom-score-adj", "500"], "cat /proc/self/oom_score_adj"), "500\n");
    assert_eq!(sh(&["--sysctl", "net.ipv4.ip_forward=1"], "cat /proc/sys/net/ipv4/ip_forward"), "1\n");
    assert_eq!(sh(&["--sysctl", "kernel.shmmni=77"], "cat /proc/sys/kernel/shmmni"), "77\n");
    assert_ne!(std::fs::read_to_string("/proc/sys/kernel/shmmni").unwrap(), "77\n");
}

#[test]
fn only_named_devices_exist() {
    if !root() {
        return;
    }
    assert_eq!(sh(&[], "ls -d /dev/full /dev/kmsg /dev/loop-control 2>/dev/null; true"), "/dev/full\n");
    let seen =
        sh(&["--device", "/dev/null:/dev/nichts:rw"], "echo x > /dev/nichts; stat -c %t:%T /dev/nichts");
    assert_eq!(seen, "1:3\n");
    // With MKNOD a node can be made, but its device cannot be used.
    let made = nspod(&[
        "run",
        "--cap-add",
        "MKNOD",
        "--tmpfs",
        "/mnt:dev",
        "sh",
        "-c",
        "mknod /mnt/kmsg c 1 11 && cat /mnt/kmsg",
    ]);
    assert_ne!(made.code(), 0);
    assert!(made.err.contains("Operation not permitted"), "{}", made.err);
    assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
}

#[test]
fn an_init_is_pid_1_on_request() {
    if !root() {
        return;
    }
    assert_eq!(sh(&["--init"], "echo $$; tr '\\0' '\\n' < /proc/1/cmdline | head -1"), "2\nnspod-init\n");
    // The init reaps orphans.
    let script = "(sleep 0.05 & ) ; sleep 0.5; grep -l '^State:.*zombie' /proc/[0-9]*/status; echo reaped";
    assert_eq!(nspod(&["run", "--init", "sh", "-c", script]).out, "reaped\n");
}

#[test]
fn the_id_and_the_pid_are_written_to_the_named_files() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (cid, pid) = (dir.path().join("cid"), dir.path().join("pid"));
    let name = Name::detached(
        &["--cidfile", cid.to_str().unwrap(), "--pidfile", pid.to_str().unwrap()],
        &["sleep", "1000"],
    );
    assert_eq!(std::fs::read_to_string(&cid).unwrap(), *name);
    let inspected = json(&["inspect", &name]);
    assert_eq!(std::fs::read_to_string(&pid).unwrap(), format!("{}\n", inspected[0]["pid"]));
    // An existing file belongs to another container: nothing is started.
    let mark = dir.path().join("mark");
    let volume = format!("{}:/mnt", dir.path().display());
    let refused = nspod(&["run", "--cidfile", cid.to_str().unwrap(), "-v", &volume, "touch", "/mnt/mark"]);
    assert_eq!(refused.code(), 125);
    assert_eq!(
        refused.err,
        format!(
            "nspod: cannot write the id to {}: File exists (EEXIST); remove it, or name another file\n",
            cid.display()
        )
    );
    assert!(!mark.exists(), "it ran");
    assert_eq!(std::fs::read_to_string(&cid).unwrap(), *name);
}

#[test]
fn explain_prints_each_step_and_does_nothing() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (name, cid) = (Name::container(), dir.path().join("cid"));
    let volume = format!("{}:/mnt", dir.path().display());
    let overlay = format!("--overlay={}/overlay", dir.path().display());
    let flags = [
        "--explain",
        "--name",
        &name,
        "-h",
        "box",
        "-v",
        &volume,
        &overlay,
        "--cidfile",
        cid.to_str().unwrap(),
    ];
    let plan = ok(&[&["run"], &flags[..], &["touch", "/mnt/x"]].concat());
    for said in ["box", "/mnt", "touch", "clone3"] {
        assert!(plan.contains(said), "{said} is not in the plan:\n{plan}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "something was created");
    assert!(!name.state().exists() && !common::cgroup(&name).exists());
    let plan = json(&[&["--json", "run"], &flags[..], &["true"]].concat());
    assert!(plan["steps"].as_array().unwrap().len() > 5 && plan["spec"]["hostname"] == "box");
}
