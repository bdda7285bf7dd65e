//! `--userns auto`: each container has a range of ids that no other container has.

mod common;

use std::os::unix::fs::MetadataExt;

use common::user::User;
use common::{Name, alone, busybox_root, json, nspod, ok, root};
use ns_core::{Kind, Namespace};

/// Returns the first and the number of the ids in the text of a map from id 0.
fn extent(map: &str) -> (u32, u32) {
    let numbers: Vec<u32> = map.split_whitespace().map(|n| n.parse().unwrap()).collect();
    assert_eq!((numbers.len(), numbers[0]), (3, 0), "{map}");
    (numbers[1], numbers[2])
}

fn pid(name: &str) -> i32 {
    json(&["inspect", name])[0]["pid"].as_i64().unwrap() as i32
}

#[test]
fn a_container_has_its_own_range_and_account() {
    if !root() {
        return;
    }
    let containers = [(); 3].map(|()| Name::detached(&["--userns", "auto"], &["sleep", "1000"]));
    let mut ranges = Vec::new();
    for name in &containers {
        let pid = pid(name);
        let of = |file: &str| extent(&std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap());
        let (uids, gids) = (of("uid_map"), of("gid_map"));
        assert_eq!(uids, gids);
        // The kernel charges the container's objects to the namespace's owner, too.
        let owner = Namespace::of_pid(pid, Kind::User).unwrap().creator_uid().unwrap();
        assert_eq!(owner, uids.0);
        ranges.push(uids.0..uids.0 + uids.1);
        assert_eq!(ok(&["exec", name, "id", "-u"]), "0\n");
    }
    for (at, range) in ranges.iter().enumerate() {
        assert!(ranges[..at].iter().all(|other| other.end <= range.start || range.end <= other.start));
        assert!(range.start >= 1000 && range.len() >= 1024, "{range:?}");
    }
}

#[test]
fn concurrent_starts_get_different_ranges_and_give_them_back() {
    if !root() {
        return;
    }
    // The guest is slow.
    let count = if nspod_testkit::is_slow() { 8 } else { 50 };
    let script = format!(
        "
        for i in $(seq {count}); do $N run -d --userns auto --name c$i sleep 1000 > /run/out$i & done; wait
        cat /run/nspod/containers/*/ids | sort -u | wc -l
        $N pod create --userns auto p; $N pod inspect p | grep -c '\"own\"'
        cat /run/nspod/*/*/ids | sort -u | wc -l
        $N rm -f $(seq -f c%.0f {count}) | wc -l; $N pod rm p; ls -d /run/nspod/*/*/ids | wc -l"
    );
    let seen = alone(&script);
    let lines: Vec<&str> = seen.out.lines().collect();
    let (count, with_pod) = (count.to_string(), (count + 1).to_string());
    assert_eq!(lines, [&*count, "p", "1", &*with_pod, &*count, "p", "0"], "{}", seen.err);
}

#[test]
fn the_range_of_a_killed_start_is_free_again() {
    if !root() {
        return;
    }
    // The state that a start leaves if it is killed after the reservation.
    let script = "
        next() { $N run --userns auto --explain sleep 1000 | sed -n 's/.*become user \\([0-9]*\\) as.*/\\1/p'; }
        $N ps -q; first=$(next)
        mkdir -m 700 /run/nspod/containers/left
        echo $first $first 65536 > /run/nspod/containers/left/ids
        test $(next) = $((first - 65536)) && echo taken
        $N ps -aq; $N prune
        test $(next) = $first && echo free
        $N run --userns auto --name web sleep 1000 & nspod=$!
        until $N exec web true 2> /run/err; do sleep 0.05; done
        kill -9 $nspod; wait $nspod
        test $(next) = $((first - 65536)) && echo taken
        $N rm -f web; test $(next) = $first && echo free";
    assert_eq!(alone(script).out, "taken\nfree\ntaken\nweb\nfree\n");
}

#[test]
fn roots_ranges_in_etc_subuid_are_used_until_none_is_left() {
    if !root() {
        return;
    }
    let script = "
        echo root:200000:2048 > /run/uids; echo root:300000:4096 > /run/gids
        mount --bind /run/uids /etc/subuid; mount --bind /run/gids /etc/subgid
        for i in 1 2 3; do $N run -d --userns auto --name c$i sleep 1000; done
        $N exec c2 cat /proc/self/uid_map /proc/self/gid_map
        $N rm -f c1; $N run --userns auto:size=1000 cat /proc/self/uid_map; $N rm -f c2";
    let seen = alone(script);
    let words: Vec<&str> = seen.out.split_whitespace().collect();
    let want = "c1 c2 0 200000 1024 0 302048 1024 c1 0 201048 1000 c2";
    assert_eq!(words.join(" "), want, "{}", seen.err);
    let said = "nspod: no range of 1024 user ids is free for root: 2 ranges are in use; remove containers or pods, use \
        --userns auto:size=N with fewer ids, or add a line for root to /etc/subuid\n";
    assert_eq!(seen.err, said);
}

#[test]
fn an_ordinary_user_gives_parts_of_its_range() {
    if !root() {
        return;
    }
    let user = User::with_subids("nobody:300000:65536\n");
    let map = |flags: &[&str]| {
        let args = [&["run", "--userns"], flags, &["cat", "/proc/self/uid_map"]].concat();
        extent(user.nspod(&args).ok())
    };
    assert_eq!(map(&["auto"]), (364_512, 1024));
    assert_eq!(map(&["auto:size=65536"]), (300_000, 65_536));
    user.nspod(&["run", "-d", "--name", "n", "--userns", "auto", "sleep", "1000"]).ok();
    assert_eq!(map(&["auto"]), (363_488, 1024));
    // The kernel counts the objects of all containers for the user. A user of a container gets a share.
    let all = std::fs::read_to_string("/proc/sys/user/max_inotify_instances").unwrap();
    let share = user.nspod(&["exec", "n", "cat", "/proc/sys/user/max_inotify_instances"]);
    let number = |text: &str| text.trim().parse::<u32>().unwrap();
    assert_eq!(number(share.ok()), number(&all) / 4);
    let refused = user.nspod(&["pod", "create", "--userns", "auto", "p"]);
    let said = "nspod: `pod create --userns auto` requires root, because the shared memory of an ordinary user's pod \
        belongs to that user: omit it\n";
    assert_eq!((refused.code(), refused.err.as_str()), (125, said));
    let none = User::with_subids("");
    let refused = none.nspod(&["run", "--userns", "auto", "true"]);
    let said = "nspod: no range of 1024 user ids is free for the caller; ";
    assert!(refused.code() == 125 && refused.err.starts_with(said), "{}", refused.err);
}

#[test]
fn files_of_a_root_directory_keep_their_owners() {
    if !root() {
        return;
    }
    let image = tempfile::tempdir().unwrap();
    busybox_root(image.path(), &[]);
    let path = image.path().to_str().unwrap();
    let script = "stat -c %u /bin/busybox; touch /made; chown 7:7 /made; stat -c %u /made";
    let args = ["run", "--userns", "auto", "--rootfs", path, "busybox", "sh", "-c", script];
    let seen = nspod(&args);
    assert_eq!(seen.ok(), "0\n7\n");
    assert_eq!(image.path().join("made").metadata().unwrap().uid(), 7);
    // With shared ids, the files belong to nobody.
    let args = args.map(|arg| if arg == "auto" { "new" } else { arg });
    let seen = nspod(&args);
    assert!(seen.out.starts_with("65534\n") && seen.err.contains("Permission denied"), "{seen:?}");
}

#[test]
fn what_cannot_have_its_own_range_says_so() {
    if !root() {
        return;
    }
    for (args, said) in [
        (&["run", "--bare", "--userns", "auto", "true"][..], "use `--userns new`"),
        (&["run", "--userns", "auto", "--uidmap", "0:1:1", "true"], "conflicts with --uidmap"),
        (&["run", "--userns", "auto:size=0", "true"], "must be auto or auto:size=N"),
    ] {
        let refused = nspod(args);
        assert!(refused.code() == 125 && refused.err.contains(said), "{args:?}: {}", refused.err);
    }
}
