//! The everyday commands that docker's users expect: stop, rm -f, rename, cp, ps, version, completions and manual
//! pages.

mod common;

use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use common::user::User;
use common::{NSPOD, Name, Output, alone, busybox_root, json, nspod, ok, programs, root, run_with, unique};

/// Returns the output of a shell script, with `$N` for nspod.
fn sh(script: &str) -> Output {
    run_with(Command::new("sh").args(["-c", script]).env("N", NSPOD), "")
}

#[test]
fn stopping_an_ended_container_and_removing_a_missing_one_succeed() {
    if !root() {
        return;
    }
    let name = Name::detached(&[], &["true"]);
    ok(&["wait", &name]);
    assert_eq!(ok(&["stop", &name]), format!("{}\n", &*name));
    assert_eq!(ok(&["rm", &name]), format!("{}\n", &*name));
    assert_eq!(ok(&["rm", "-f", &name]), "");
    assert_eq!(ok(&["pod", "rm", "-f", &name]), "");
    for args in [&["rm", &name][..], &["stop", &name], &["pod", "rm", &name], &["rm", "-f", "../x"]] {
        assert_eq!(nspod(args).code(), 125, "{args:?}");
    }
}

#[test]
fn an_unreadable_record_does_not_affect_other_containers_and_pods() {
    if !root() {
        return;
    }
    let (name, pod) = (unique(), unique());
    let script = format!(
        "$N run -d --name {name} sleep 1000 && $N pod create {pod} && for dir in containers pods; do
            mkdir -m 700 /run/nspod/$dir/broken /run/nspod/$dir/bytes && touch /run/nspod/$dir/file &&
            echo '{{' > /run/nspod/$dir/broken/state.json && printf '\\377' > /run/nspod/$dir/bytes/state.json
         done
         for i in 1 2; do $N rm -f {name}; echo $?; $N pod rm -f {pod}; echo $?; done
         $N pod ls > /dev/null 2> /run/noted; echo $?; grep -c pods/b /run/noted"
    );
    let want = format!("{name}\n{pod}\n{name}\n0\n{pod}\n0\n0\n0\n0\n2\n");
    assert_eq!(alone(&script).out, want);
}

#[test]
fn a_list_has_filters_and_a_form_of_its_own() {
    if !root() {
        return;
    }
    let pod = Name::pod();
    ok(&["pod", "create", &pod]);
    let (web, done) = (
        Name::detached(&["--pod", &pod], &["sh", "-c", "sleep 1000; true", &"x".repeat(60)]),
        Name::detached(&[], &["true"]),
    );
    ok(&["wait", &done]);
    let by_name = |name: &Name| format!("name={}", &**name);
    let of_pod = format!("pod={}", &*pod);
    let template = "{{.Name}} {{.Status}} {{.ExitCode}} {{.Pod}}";
    assert_eq!(
        ok(&["ps", "--filter", &of_pod, "--format", template]),
        format!("{} running  {}\n", &*web, &*pod)
    );
    // A filter by state lists ended containers without -a.
    let ended = ok(&[
        "ps",
        "-f",
        "status=exited",
        "-f",
        &by_name(&done),
        "--format",
        "table {{.ID}}\\t{{.ExitCode}}",
    ]);
    assert_eq!(ended.split_whitespace().collect::<Vec<_>>(), ["ID", "EXIT", "CODE", &done, "0"]);
    assert_eq!(ok(&["ps", "-q", "-f", &by_name(&web), "-f", &by_name(&done)]), format!("{}\n", &*web));
    let line: serde_json::Value =
        serde_json::from_str(&ok(&["ps", "-f", &of_pod, "--format", "json"])).unwrap();
    assert_eq!((line["Name"].as_str(), line["Pid"].as_i64()), (Some(&*web), Some(1)));
    let long = "x".repeat(60);
    assert!(!ok(&["ps"]).contains(&long) && ok(&["ps", "--no-trunc"]).contains(&long));
    let wrong = nspod(&["ps", "-f", &of_pod, "--format", "{{.Ports}}"]);
    assert!(
        wrong.code() == 125 && wrong.err.contains("there is no field .Ports; there are"),
        "{}",
        wrong.err
    );

    // 80 columns are enough for the table at a terminal.
    let table = sh(&format!("script -qc 'stty cols 80; {NSPOD} ps -f {of_pod}' /dev/null < /dev/null"));
    for line in table.ok().lines() {
        let text = line.replace("\x1b[1m", "").replace("\x1b[0m", "");
        assert!(text.trim_end().chars().count() <= 80, "{text}");
    }

    assert_eq!(ok(&["inspect", "-f", "{{.State}} {{.Spec.Process.Args.0}}", &web]), "running sh\n");
    assert_eq!(ok(&["inspect", "-f", "{{json .ExitCode}}", &done, &web]), "0\nnull\n");
    assert_eq!(ok(&["prune", "-f"]).lines().filter(|line| *line == &*done).count(), 1);
}

#[test]
fn the_version_names_the_kernel() {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let version = json(&["version", "--json"]);
    assert_eq!(version["kernel"].as_str(), Some(release.trim()));
    let text = ok(&["version"]);
    assert_eq!(text.lines().next(), ok(&["--version"]).lines().next());
    assert!(text.lines().nth(1).unwrap().starts_with(&format!("kernel {}", release.trim())));
}

#[test]
fn a_renamed_container_continues_and_its_old_name_is_free() {
    if !root() {
        return;
    }
    let (old, new) = (Name::detached(&[], &["sh", "-c", "echo one; sleep 1000"]), Name::container());
    ok(&["rename", &old, &new]);
    let (row, pid) = (new.row().unwrap(), json(&["inspect", &new])[0]["pid"].clone());
    assert_eq!((row["state"].as_str(), &row["host_pid"]), (Some("running"), &pid));
    assert_eq!(old.row(), None);
    assert_eq!(ok(&["exec", &new, "hostname"]), format!("{}\n", &*old));
    common::eventually("the log has moved", || ok(&["logs", &new]) == "one\n");
    let missing = nspod(&["rename", &old, "other"]);
    assert!(missing.code() == 125 && missing.err.contains("there is no container"), "{}", missing.err);

    // Another container gets the old name, and its own log and cgroup.
    ok(&["run", "-d", "--name", &old, "sh", "-c", "echo two; sleep 1000"]);
    common::eventually("it has written", || ok(&["logs", &old]) == "two\n");
    let taken = nspod(&["rename", &old, &new]);
    assert_eq!(taken.code(), 125);
    assert!(taken.err.contains("already"), "{}", taken.err);
    assert_ne!(json(&["inspect", &old])[0]["cgroup"], json(&["inspect", &new])[0]["cgroup"]);
    ok(&["rm", "-f", &old]);
    assert_eq!(new.at(), "running");

    // The remains of a killed start with the old name do not have the cgroup.
    std::fs::DirBuilder::new().mode(0o700).create(old.state()).unwrap();
    ok(&["ps"]);
    assert!(!old.state().exists());
    assert_eq!(new.at(), "running");
    ok(&["stop", "-t", "0", &new]);
    assert_eq!(ok(&["logs", &new]), "one\n");
    ok(&["rm", &new]);
}

#[test]
fn a_renamed_container_has_its_new_name_in_the_pod() {
    if !root() {
        return;
    }
    let (pod, new) = (Name::pod(), Name::container());
    ok(&["pod", "create", &pod]);
    let old = Name::detached(&["--pod", &pod], &["sleep", "1000"]);
    ok(&["rename", &old, &new]);
    let hosts = ok(&["exec", &new, "cat", "/etc/hosts"]);
    assert!(hosts.contains(&format!("127.0.0.1\t{}\n", &*new)) && !hosts.contains(&*old), "{hosts}");
    assert_eq!(json(&["pod", "inspect", &pod])[0]["containers"], serde_json::json!([&*new]));
    let foreground = Name::container();
    let script = format!(
        "$N run --name {0} sleep 1000 & until $N ps -q | grep -qx {0}; do sleep 0.1; done
        $N rename {0} other; echo $?; $N rm -f {0}; wait",
        &*foreground
    );
    let refused = sh(&script);
    assert!(
        refused.out.starts_with("125\n") && refused.err.contains("a `nspod run` waits for it"),
        "{}",
        refused.err
    );
}

/// A directory tree with files of several owners and modes.
fn tree(dir: &Path) {
    std::fs::create_dir_all(dir.join("sub/empty")).unwrap();
    std::fs::write(dir.join("sub/file"), "content").unwrap();
    std::fs::write(dir.join("tool"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(dir.join("tool"), std::fs::Permissions::from_mode(0o4751)).unwrap();
    std::fs::set_permissions(dir.join("sub"), std::fs::Permissions::from_mode(0o705)).unwrap();
    symlink("../no/such", dir.join("sub/link")).unwrap();
    for path in ["sub", "sub/file"] {
        nix::unistd::chown(&dir.join(path), Some(4711.into()), Some(4712.into())).unwrap();
    }
}

/// Returns type, mode, owner and size of each file below a directory, or the target of a link.
fn listed(dir: &Path) -> String {
    let script =
        "find . -mindepth 1 -not -type l -printf '%p %y %m %U:%G\\n' -o -type l -printf '%p -> %l\\n' | sort";
    run_with(Command::new("sh").args(["-c", script]).current_dir(dir), "").ok().to_owned()
}

#[test]
fn files_are_copied_into_and_out_of_a_container_with_owners_and_modes() {
    if !root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let (dir, at) =
        (temp.path().join("dir"), |name: &str| temp.path().join(name).to_str().unwrap().to_owned());
    tree(&dir);
    let name = Name::detached(&[], &["sleep", "1000"]);
    let inside = |path: &str| format!("{}:{path}", &*name);
    // The directory itself, and then what is in it.
    ok(&["cp", &at("dir"), &inside("/tmp")]);
    ok(&["cp", &at("dir/."), &inside("tmp/dir/sub/empty")]);
    assert_eq!(
        ok(&["exec", &name, "stat", "-c", "%a %u %g", "/tmp/dir/tool", "/tmp/dir/sub"]),
        "4751 0 0\n705 4711 4712\n"
    );
    ok(&["exec", &name, "rm", "-r", "/tmp/dir/sub/empty/sub", "/tmp/dir/sub/empty/tool"]);
    ok(&["cp", &inside("/tmp/dir"), &at("copy")]);
    // The set-user-ID bit of a program from the container is not kept.
    assert_eq!(listed(&temp.path().join("copy")), listed(&dir).replace("4751", "751"));
    let times = |path: &Path| std::fs::metadata(path).unwrap().mtime_nsec();
    assert_eq!(times(&dir.join("sub/file")), times(&temp.path().join("copy/sub/file")));

    // A file to a new name, to a directory, over a file, and to a pipe.
    ok(&["cp", &at("dir/sub/file"), &inside("/tmp/new")]);
    ok(&["cp", &inside("/tmp/new"), &at("dir/sub/empty")]);
    assert_eq!(std::fs::read_to_string(dir.join("sub/empty/new")).unwrap(), "content");
    std::fs::write(dir.join("other"), "a longer text").unwrap();
    ok(&["cp", &inside("/tmp/new"), &at("dir/other")]);
    assert_eq!(std::fs::read_to_string(dir.join("other")).unwrap(), "content");
    assert_eq!(sh(&format!("$N cp {} /dev/stdout | cat", inside("/tmp/new"))).ok(), "content");
    // A link is copied, or the file that it names.
    ok(&["exec", &name, "ln", "-s", "/tmp/new", "/tmp/link"]);
    ok(&["cp", &inside("/tmp/link"), &at("link")]);
    assert_eq!(std::fs::read_link(at("link")).unwrap(), Path::new("/tmp/new"));
    ok(&["cp", "-L", &inside("/tmp/link"), &at("followed")]);
    assert_eq!(std::fs::read_to_string(at("followed")).unwrap(), "content");
    // What is not a file is left out with a note.
    ok(&["exec", &name, "mkfifo", "/tmp/dir/pipe"]);
    let noted = nspod(&["cp", &inside("/tmp/dir"), &at("copy")]);
    assert_eq!(
        (noted.code(), noted.err),
        (0, format!("nspod: {} was left out: pipes are not copied\n", inside("/tmp/dir/pipe")))
    );
}

#[test]
fn the_kernels_own_file_systems_are_not_copied_with_the_root() {
    if !root() || !programs(&["busybox"]) {
        return;
    }
    let (files, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    busybox_root(files.path(), &["sh"]);
    let name =
        Name::detached(&["--rootfs", files.path().to_str().unwrap()], &["/bin/busybox", "sleep", "1000"]);
    let copied = nspod(&["cp", &format!("{}:/", &*name), out.path().to_str().unwrap()]);
    assert_eq!(copied.code(), 0, "{}", copied.err);
    assert!(
        copied.err.lines().all(|line| line.ends_with(" was left out: devices are not copied")),
        "{}",
        copied.err
    );
    assert!(out.path().join("bin/busybox").exists() && out.path().join("dev").exists());
    assert!(!out.path().join("proc").exists() && !out.path().join("sys").exists());
}

#[test]
fn a_link_of_the_container_does_not_lead_out_of_it() {
    if !root() {
        return;
    }
    // The container has a /tmp of its own, and elsewhere it sees the host's files.
    let temp = tempfile::tempdir_in("/tmp").unwrap();
    let secret = temp.path().join("secret");
    std::fs::write(&secret, "of the host").unwrap();
    let host = temp.path().to_str().unwrap();
    let name = Name::detached(&[], &["sleep", "1000"]);
    let inside = |path: &str| format!("{}:{path}", &*name);
    let script = format!(
        "cd /tmp && mkdir -p .{host} dir && echo inside > .{host}/secret && ln -s {host} absolute &&
         ln -s ../../../../..{host} relative && ln -s /proc/1/root root && ln -s {host}/secret dir/secret &&
         mkdir target && ln -s {host} target/dir"
    );
    ok(&["exec", &name, "sh", "-c", &script]);
    for path in ["absolute/secret", "relative/secret", "dir/secret"] {
        let read = nspod(&["cp", "-L", &inside(&format!("/tmp/{path}")), &format!("{host}/out")]);
        assert!(read.code() == 125 && read.err.contains("(ENOENT)"), "{path}: {}", read.err);
    }
    assert!(nspod(&["cp", &inside("/proc/1/root/etc"), &format!("{host}/out")]).err.contains("(ELOOP)"));
    // A directory is not copied through a link.
    std::fs::create_dir_all(temp.path().join("dir")).unwrap();
    std::fs::write(temp.path().join("dir/planted"), "x").unwrap();
    let written = nspod(&["cp", &format!("{host}/dir"), &inside("/tmp/target")]);
    assert_eq!(written.code(), 125, "{}", written.err);
    assert!(!temp.path().join("planted").exists());
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "of the host");
}

#[test]
fn a_copy_has_the_ids_of_the_user_namespace() {
    if !root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("file");
    std::fs::write(&file, "x").unwrap();
    nix::unistd::chown(&file, Some(7.into()), Some(8.into())).unwrap();
    let name = Name::detached(&["--userns", "auto"], &["sleep", "1000"]);
    let inside = |path: &str| format!("{}:{path}", &*name);
    ok(&["cp", file.to_str().unwrap(), &inside("/tmp/file")]);
    assert_eq!(ok(&["exec", &name, "stat", "-c", "%u %g", "/tmp/file"]), "7 8\n");
    ok(&["cp", &inside("/tmp/file"), temp.path().join("out").to_str().unwrap()]);
    let out = std::fs::metadata(temp.path().join("out")).unwrap();
    assert_eq!((out.uid(), out.gid()), (7, 8));
}

#[test]
fn an_ordinary_user_copies_files() {
    if !root() {
        return;
    }
    let user = User::new();
    user.nspod(&["run", "-d", "--name", "n", "sleep", "1000"]).ok();
    let at = |name: &str| user.dir().join(name).to_str().unwrap().to_owned();
    user.nspod(&["cp", "/etc/passwd", "n:/tmp/x"]).ok();
    user.nspod(&["cp", "n:/tmp/x", &at("copy")]).ok();
    assert_eq!(std::fs::read(at("copy")).unwrap(), std::fs::read("/etc/passwd").unwrap());
    assert_eq!(std::fs::metadata(at("copy")).unwrap().uid(), 65_534);
    let refused = user.nspod(&["cp", "/etc/shadow", "n:/tmp/y"]);
    assert!(refused.code() == 125 && refused.err.contains("(EACCES)"), "{}", refused.err);
}

#[test]
fn a_file_that_is_copied_over_itself_keeps_its_content() {
    if !root() {
        return;
    }
    // The container sees the files of the host through overlays, except in /tmp and /run.
    let temp = tempfile::tempdir_in("/var/tmp").unwrap();
    let file = temp.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let (path, volume) = (file.to_str().unwrap(), format!("{}:/mnt", temp.path().display()));
    let name = Name::detached(&["-v", &volume], &["sleep", "1000"]);
    ok(&["cp", &format!("{}:{path}", &*name), path]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    let inside = format!("{}:/mnt/file", &*name);
    for args in [[&*inside, path], [path, &*inside]] {
        let refused = nspod(&[&["cp"], &args[..]].concat());
        assert!(refused.code() == 125 && refused.err.contains("are the same file"), "{refused:?}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    }
    std::fs::write(temp.path().join("short"), "new").unwrap();
    ok(&["cp", temp.path().join("short").to_str().unwrap(), &inside]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "new");
}

#[test]
fn a_copy_that_is_not_possible_is_explained() {
    if !root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().to_str().unwrap();
    std::fs::create_dir_all(temp.path().join("tree/sys")).unwrap();
    let volume = format!("{dir}:/mnt");
    let (name, ended) =
        (Name::detached(&["-v", &volume], &["sleep", "1000"]), Name::detached(&[], &["true"]));
    ok(&["wait", &ended]);
    let inside = |path: &str| format!("{}:{path}", &*name);
    let table: &[(&[&str], &str)] = &[
        (&["/etc/passwd", "/tmp/x"], "SRC or DST must be in a container"),
        (&["a:/x", "b:/y"], "both in a container"),
        (&["-", &inside("/tmp")], "tar"),
        (&["no-such:/x", "."], "there is no container no-such"),
        (&[&format!("{}:/x", &*ended), "."], "is not running; `nspod cp`"),
        (&["/etc/passwd", &inside("/etc/passwd")], "read-only there"),
        (&["/etc/passwd", &inside("/no/such/dir")], "cannot open the directory"),
        (&["/etc/passwd", &inside("/tmp/no-such/")], "cannot open the directory"),
        (&["/no/such", &inside("/tmp")], "cannot open /no/such"),
        (&["/dev/null", &inside("/tmp")], "devices have no content"),
        (&["/etc", &inside("/mnt/../etc/passwd")], "is a directory, and"),
        (&[dir, &inside("/mnt/copy")], "cannot be copied into itself"),
        (&["/etc/passwd", &inside("/proc/1/oom_score_adj")], "is in a file system of the kernel"),
        (&["/etc/passwd", &inside("/sys/new")], "is in a file system of the kernel"),
        (&[&format!("{dir}/tree/."), &inside("/")], "is in a file system of the kernel"),
    ];
    for (args, why) in table {
        let refused = nspod(&[&["cp"], *args].concat());
        assert!(refused.code() == 125 && refused.err.contains(why), "{args:?}: {}", refused.err);
    }
    // A name from the container does not control the caller's terminal.
    ok(&["exec", &name, "sh", "-c", "mkdir /tmp/dir; mkfifo \"/tmp/dir/$(printf 'a\\033[31mb')\""]);
    let noted = nspod(&["cp", &inside("/tmp/dir"), &format!("{dir}/out")]);
    assert!(
        noted.err.ends_with("/tmp/dir/a\u{fffd}[31mb was left out: pipes are not copied\n"),
        "{}",
        noted.err
    );
}

#[test]
fn a_suggestion_is_right_or_absent() {
    for (args, tip) in [
        (&["lgos", "x"][..], Some("a similar subcommand exists: 'logs'")),
        (&["start", "x"], Some("a container that has ended does not start again; 'run' starts a new one")),
        (&["pull", "alpine"], Some("nspod has no images")),
        (&["port", "x"], Some("'inspect' shows the published ports")),
        (&["cqpl"], None),
        (&["run", "--publsh", "80:80", "x"], Some("'--publish")),
        (&["run", "--link", "x", "y"], None),
        (&["exec", "-p", "80:80", "x", "y"], None),
    ] {
        let refused = nspod(args);
        assert_eq!(refused.code(), 125, "{args:?}");
        let found = refused.err.split("  tip: ").nth(1);
        match tip {
            Some(tip) => assert!(found.is_some_and(|found| found.contains(tip)), "{args:?}: {}", refused.err),
            None => assert_eq!(found, None, "{args:?}"),
        }
    }
    let publish = nspod(&["run", "-p", "80:80", "true"]).err;
    assert!(publish.contains("`--network pasta -p 80:80`"), "{publish}");
}

/// Returns what nspod offers a shell for the last word.
fn offered(shell: &str, words: &[&str]) -> Vec<String> {
    let mut command = Command::new(NSPOD);
    command.arg("--").arg("nspod").args(words);
    command.env("NSPOD_COMPLETE", shell).env("_CLAP_IFS", "\n");
    command.env("_CLAP_COMPLETE_INDEX", words.len().to_string());
    let lines = run_with(&mut command, "");
    // zsh and fish get a description too.
    let separator = if shell == "zsh" { ':' } else { '\t' };
    lines.ok().lines().filter_map(|line| line.split(separator).next()).map(ToOwned::to_owned).collect()
}

#[test]
fn completions_know_containers_pods_and_networks() {
    if !root() {
        return;
    }
    let (pod, name) = (Name::pod(), Name::detached(&[], &["sleep", "1000"]));
    ok(&["pod", "create", &pod]);
    let has = |shell: &str, words: &[&str], wanted: &str| {
        let found = offered(shell, words);
        assert!(found.iter().any(|word| word == wanted), "{shell} {words:?}: {wanted} is not in {found:?}");
    };
    for shell in ["bash", "zsh", "fish"] {
        has(shell, &["st"], "stop");
        has(shell, &["run", "--pids"], "--pids-limit");
        for command in ["stop", "logs", "exec", "rm", "rename", "ps", "commit"] {
            has(shell, &[command, ""], &name);
        }
        has(shell, &["stop", &name, &name[..5]], &name);
        has(shell, &["pod", "rm", ""], &pod);
        has(shell, &["run", "--pod", ""], &pod);
        for network in ["none", "pasta", "host", "pod"] {
            has(shell, &["run", "--network", ""], network);
        }
        has(shell, &["pod", "create", "--network", "p"], "pasta");
    }
    has("bash", &["run", "--network", "con"], &format!("container:{}", &*name));
    has("bash", &["run", "--network=ho"], "--network=host");
    has("bash", &["cp", &name[..5]], &format!("{}:", &*name));
    has("bash", &["cp", "/etc/host"], "/etc/hosts");
    assert!(!offered("bash", &["pod", "create", "--network", ""]).contains(&"host".to_owned()));

    // The function that bash gets calls nspod.
    let dir = Path::new(NSPOD).parent().unwrap().display();
    let script = format!(
        "PATH={dir}:$PATH; source <(nspod completions bash); COMP_WORDS=(nspod stop {0}); COMP_CWORD=2; COMP_TYPE=9
         _clap_complete_nspod nspod {0} stop 2> /dev/null; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        &name[..5]
    );
    let found = run_with(Command::new("bash").args(["-c", &script]), "").ok().to_owned();
    assert!(found.split_whitespace().any(|word| word == &*name), "{found}");
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(ok(&["completions", shell]).contains("NSPOD_COMPLETE"), "{shell}");
    }
}

#[test]
fn a_manual_page_is_shown_for_each_command() {
    let page = ok(&["man", "pod", "create"]);
    assert!(page.starts_with(".ie") || page.contains(".TH NSPOD-POD-CREATE 1"), "{page}");
    for title in ["EXAMPLES", "ENVIRONMENT", "EXIT STATUS", "SEE ALSO"] {
        assert!(
            page.contains(&format!(".SH {title}")) || page.contains(&format!(".SH \"{title}\"")),
            "{title}"
        );
    }
    let unknown = nspod(&["man", "frob"]);
    assert!(unknown.code() == 125 && unknown.err.contains("there is no command frob"), "{}", unknown.err);
    let help = ok(&["--help"]) + &ok(&["run", "--help"]);
    assert!(help.contains("`nspod man COMMAND` shows") && help.contains("`nspod man run` shows"));
    let temp = tempfile::tempdir().unwrap();
    ok(&["man", "--dir", temp.path().to_str().unwrap()]);
    assert!(temp.path().join("nspod-cp.1").exists() && temp.path().join("nspod-pod-run.1").exists());

    // At a terminal, the page is text, with or without man(1).
    for path in ["/usr/bin:/bin", "/no/such"] {
        let script =
            format!("script -qc 'PATH={path} MANPAGER=cat {NSPOD} man version' /dev/null < /dev/null");
        let shown = sh(&script).ok().to_owned();
        assert!(shown.contains("nspod version --json") && !shown.contains(".SH"), "{path}: {shown}");
    }
}
