//! An ordinary user runs containers and pods: with one id, or with ranges of ids.

mod common;

use std::path::Path;

use common::user::User;
use common::{eventually, fault, root, run_with};

#[test]
fn an_ordinary_user_is_root_in_a_container_and_nobody_outside() {
    if !root() {
        return;
    }
    let user = User::with_subids("");
    let script =
        "id -u; hostname; echo $$; cat /proc/self/uid_map; cat /etc/shadow 2>/dev/null || echo refused";
    let seen = user.nspod(&["run", "-h", "box", "sh", "-c", script]);
    let lines: Vec<Vec<&str>> = seen.ok().lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines, [vec!["0"], vec!["box"], vec!["2"], vec!["0", "65534", "1"], vec!["refused"]]);
    assert_eq!(user.nspod(&["run", "sh", "-c", "exit 7"]).code(), 7);
    assert_eq!(user.nspod(&["run", "no-such"]).code(), 127);
    // Files written to a volume belong to the user.
    let file = user.dir().join("written");
    let volume = format!("{}:/mnt", user.dir().display());
    user.nspod(&["run", "-v", &volume, "touch", "/mnt/written"]).ok();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&file.metadata().unwrap()), 65_534);
}

#[test]
fn ranges_of_ids_are_those_of_etc_subuid() {
    if !root() {
        return;
    }
    let user = User::with_subids("other:1000:1\nnobody:300000:65536\n");
    let map = |flags: &[&str]| {
        let seen =
            user.nspod(&[&["run"], flags, &["cat", "/proc/self/uid_map", "/proc/self/gid_map"]].concat());
        seen.ok().split_whitespace().map(|n| n.parse().unwrap()).collect::<Vec<u32>>()
    };
    let ranges = [0, 65_534, 1, 1, 300_000, 65_536];
    assert_eq!(map(&[]), [ranges, ranges].concat());
    assert_eq!(map(&["--userns=new"]), [ranges, ranges].concat());
    assert_eq!(map(&["--userns=single"]), [0, 65_534, 1, 0, 65_534, 1]);
    // Several users inside, and the owners of their files outside.
    let volume = format!("{}:/mnt", user.dir().display());
    let script = "touch /mnt/f && chown 33:33 /mnt/f && stat -c %u /mnt/f; id -u";
    assert_eq!(user.nspod(&["run", "-v", &volume, "sh", "-c", script]).ok(), "33\n0\n");
    let owner = std::os::unix::fs::MetadataExt::uid(&user.dir().join("f").metadata().unwrap());
    assert_eq!(owner, 300_032);
    assert_eq!(user.nspod(&["run", "-u", "33:33", "id", "-u"]).ok(), "33\n");
    assert_eq!(user.nspod(&["run", "-u", "www-data", "id", "-un"]).ok(), "www-data\n");
}

#[test]
fn an_ordinary_users_container_goes_through_its_life_cycle() {
    if !root() {
        return;
    }
    for user in [User::with_subids(""), User::with_subids("nobody:300000:65536\n")] {
        let script = "echo hi; trap 'exit 3' TERM; while :; do sleep 0.02; done";
        assert_eq!(user.nspod(&["run", "-d", "--name", "n", "sh", "-c", script]).ok(), "n\n");
        eventually("it has written", || user.nspod(&["logs", "n"]).ok() == "hi\n");
        assert_eq!(user.nspod(&["ps", "-q"]).ok(), "n\n");
        assert_eq!(user.nspod(&["exec", "n", "hostname"]).ok(), "n\n");
        assert_eq!(run_with(&mut user.command(&["exec", "-i", "n", "cat"]), "typed").ok(), "typed");
        assert!(user.nspod(&["top", "n"]).ok().contains("sh -c"));
        assert!(user.nspod(&["inspect", "n"]).ok().contains("\"running\""));
        let joined = user.nspod(&["run", "--uts=container:n", "hostname"]);
        assert_eq!(joined.ok(), "n\n");
        user.nspod(&["stop", "n"]).ok();
        assert_eq!(user.nspod(&["wait", "n"]).ok(), "3\n");
        assert_eq!(user.nspod(&["rm", "n"]).ok(), "n\n");
        assert_eq!(user.nspod(&["ps", "-aq"]).ok(), "");
    }
}

#[test]
fn an_ordinary_users_pod_talks_over_localhost() {
    if !root() {
        return;
    }
    for user in [User::with_subids(""), User::with_subids("nobody:300000:65536\n")] {
        user.nspod(&["pod", "create", "p"]).ok();
        let script = "$s = IO::Socket::INET->new(Listen => 1, LocalPort => 4713) or die; \
            while ($c = $s->accept) { print $c \"hello\\n\"; close $c }";
        user.nspod(&["run", "-d", "--pod", "p", "--name", "s", "perl", "-MIO::Socket::INET", "-e", script])
            .ok();
        let client = "until cat < /dev/tcp/127.0.0.1/4713; do sleep 0.05; done 2> /dev/null";
        assert_eq!(user.nspod(&["pod", "run", "p", "timeout", "60", "bash", "-c", client]).ok(), "hello\n");
        assert_eq!(user.nspod(&["pod", "rm", "-f", "p"]).ok(), "p\n");
        assert_eq!(user.nspod(&["ps", "-aq"]).ok(), "");
        assert_eq!(std::fs::read_dir(user.dir().join("nspod/pods")).unwrap().count(), 0);
    }
}

#[test]
fn operations_denied_to_an_ordinary_user_are_explained() {
    if !root() {
        return;
    }
    let user = User::with_subids("");
    for (args, said) in [
        (&["run", "--userns=host", "true"][..], "user namespace"),
        (&["run", "-u", "33", "true"], "33"),
        (&["run", "-m", "64m", "true"], "is not delegated to user 65534: "),
        (&["run", "--ns=net=join:1", "true"], "process 1"),
    ] {
        let refused = user.nspod(args);
        assert_eq!((refused.code(), refused.out.as_str()), (125, ""), "{args:?}: {}", refused.err);
        assert!(refused.err.contains(said) && refused.err.lines().count() == 1, "{args:?}: {}", refused.err);
    }
    assert_eq!(std::fs::read_dir(user.dir().join("nspod/containers")).unwrap().count(), 0);
}

#[test]
fn another_users_state_is_inaccessible() {
    if !root() {
        return;
    }
    let user = User::new();
    let mut command = user.command(&["ps"]);
    let strange = tempfile::tempdir().unwrap();
    let refused = run_with(command.env("XDG_RUNTIME_DIR", strange.path()), "");
    assert_eq!(refused.code(), 125);
    let want = format!(
        "nspod: cannot make the state directory {}/nspod: mkdir: Permission denied (EACCES)\n",
        strange.path().display()
    );
    assert!(refused.err.starts_with(want.trim_end()), "{}", refused.err);
    // Without the variable, the directory is below /tmp. A link that another user made there is not followed.
    let script = "mount -t tmpfs -o mode=1777 none /tmp && ln -s /etc /tmp/nspod-65534 && \
        exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$0\" ps";
    let dir = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
    let copy = dir.path().join("nspod");
    nspod_testkit::copy_program(common::NSPOD, &copy);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), mode).unwrap();
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(&copy);
    let refused = run_with(command.env_remove("XDG_RUNTIME_DIR"), "");
    let want = "nspod: cannot open the state directory /tmp/nspod-65534: open: Not a directory (ENOTDIR); \
        /tmp/nspod-65534 is a symbolic link, which is not followed: remove it, or ";
    assert!(refused.code() == 125 && refused.err.starts_with(want), "{}", refused.err);
}

#[test]
fn a_killed_creation_of_a_pod_leaves_no_holder() {
    if !root() || !fault::able() {
        return;
    }
    let user = User::new();
    // An ordinary user's pod has no cgroup in which the process that holds it could be found.
    let script = r#"
        cd $XDG_RUNTIME_DIR; end=$(($(date +%s) + 40))
        strace -qq -o trace ./bin pod create counted > out; ./bin pod rm counted > out
        for call in clone3 write sendmsg recvmsg renameat2 close mkdirat; do
            for when in $(seq $(grep -c "^$call(" trace)); do
                test $(date +%s) -lt $end || exit 0
                strace -qq -o /dev/null -e inject=$call:signal=KILL:when=$when \
                    ./bin pod create pod > out 2>&1
                if ./bin pod ls | grep -q pod; then ./bin pod rm -f pod > out; fi
                ls nspod/pods; tries=10; left=yes
                until test -z "$left"; do
                    left=
                    for process in /proc/[2-9]* /proc/1?*; do
                        read -r _ name state _ < $process/stat || continue
                        case $state in [ZX]) ;; *) left="$left $name" ;; esac
                    done 2> out
                    test -n "$left" || break
                    tries=$((tries - 1)); test $tries -gt 0 || { echo "$call $when: these are left: $left"; exit; }
                    sleep 0.1
                done
            done
        done"#;
    let mut command = std::process::Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]);
    command.args(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", script]);
    let seen = run_with(command.env("XDG_RUNTIME_DIR", user.dir()), "");
    assert_eq!((seen.out.as_str(), seen.err.as_str()), ("", ""));
}

#[test]
fn logs_are_not_pruned_in_a_directory_of_another_user() {
    /// The directory of the user's logs without a home directory.
    struct Shared(&'static Path);
    impl Drop for Shared {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir(self.0);
        }
    }
    if !root() {
        return;
    }
    let dir = Shared(Path::new("/var/tmp/nspod-65534"));
    // A test that was killed can have left it.
    let _ = std::fs::remove_dir(dir.0);
    std::fs::create_dir(dir.0).unwrap();
    nix::unistd::chown(dir.0, Some(1.into()), None).unwrap();
    let user = User::new();
    let mut prune = user.command(&["prune"]);
    let pruned = run_with(prune.env_remove("HOME").env_remove("XDG_STATE_HOME"), "");
    assert_eq!(pruned.code(), 125, "{pruned:?}");
    assert!(pruned.err.contains("/var/tmp/nspod-65534"), "{pruned:?}");
}
