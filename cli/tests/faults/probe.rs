//! The program that reports from inside of a container what it has.

use std::fs;

/// The names in `/proc/PID/ns`.
const KINDS: [&str; 8] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"];

/// Returns the script, for busybox's sh. It compares the namespaces with those of this process. The argument
/// `stay` lets it wait after the report.
pub(crate) fn script() -> String {
    let of_host: Vec<String> = KINDS
        .iter()
        .filter_map(|kind| fs::read_link(format!("/proc/self/ns/{kind}")).ok())
        .map(|link| link.display().to_string())
        .collect();
    REPORT.replace("@KINDS@", &KINDS.join(" ")).replace("@HOST@", &of_host.join(" "))
}

const REPORT: &str = r#"
for a in awk cat cut env grep id ls readlink seq sleep sort stat tr wc; do eval "$a() { /bin/busybox $a \"\$@\"; }"; done
grep -E '^(Umask|Uid|Gid|Groups|Sig(Blk|Ign)|Cap...|NoNewPrivs|Seccomp|Seccomp_filters|Cpus_allowed_list):' /proc/self/status
for kind in @KINDS@; do
    case " @HOST@ " in
        *" $(readlink /proc/self/ns/$kind) "*) echo $kind: of the host;;
        *) echo $kind: own;;
    esac
done
awk '{ dash = 7; while ($dash != "-") dash++; print "mount", $5, $6, dash - 7, $(dash + 1), $NF }' /proc/self/mountinfo
cat /proc/self/limits
cat /proc/self/oom_score_adj /proc/self/cgroup /proc/sys/kernel/hostname /proc/sys/net/ipv4/ip_unprivileged_port_start
for fd in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36; do
    [ $fd -gt 2 ] && [ -e /proc/self/fd/$fd ] && case $(readlink /proc/$$/fd/$fd) in ""|/probe) ;; *) echo fd $fd: $(readlink /proc/$$/fd/$fd);; esac
done
id; pwd; env | sort | grep -v '^SHLVL'
stat -c '%n %A %u %g %t %T' / /dev /dev/* /tmp /run /proc /sys
grep -c 127.0.0.1 /proc/net/fib_trie
for process in /proc/[0-9]*; do cat $process/comm; done 2>/dev/null | sort -u
echo END
[ "$1" = stay ] && exec /bin/busybox sleep 1000
exit 0
"#;

/// Returns the first difference of two reports.
pub(crate) fn difference(wanted: &str, found: &str) -> String {
    let (mut wanted, mut found) = (wanted.lines(), found.lines());
    loop {
        match (wanted.next(), found.next()) {
            (None, None) => return "the reports are equal".to_owned(),
            (wanted, found) if wanted == found => {}
            (wanted, found) => return format!("the report has {found:?} and not {wanted:?}"),
        }
    }
}
