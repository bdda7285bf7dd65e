//! The paths: the commands before, the traced command, the report of its success, and the removal.
//!
//! The scripts use these variables: `$N` and `$O` are the programs, `$NAME` is a new name, `$R` a root file
//! system, `$P` the command that prints the report there, `$B` a directory with bundles, and `$U` and `$V` run the programs
//! as an ordinary user. `$OUT` is the file with the standard output of the traced command.

/// One path.
pub(crate) struct Path {
    /// Name in the table.
    pub(crate) name: &'static str,
    /// What must exist before. The script must succeed.
    pub(crate) before: &'static str,
    /// The traced script.
    pub(crate) traced: &'static str,
    /// Prints what is compared after a success. If empty, it is the standard output of the traced script.
    pub(crate) report: &'static str,
    /// Removes what the name still has. It may fail, because the name may have nothing.
    pub(crate) after: &'static str,
    /// Exit codes of a failure.
    pub(crate) codes: &'static [i32],
}

/// Failures of `nspod`: its own, and those of execve(2).
const NSPOD: &[i32] = &[125, 126, 127];
/// Failures of `nspod-oci`. 255 is that of `exec`.
const OCI: &[i32] = &[1, 255];

const START: &str = "$N run -d --name $NAME --rootfs $R -- /bin/busybox sleep 1000 >/dev/null";
const CREATE: &str = "$O create --bundle $B/stay $NAME </dev/null && $O start $NAME";
const DELETE: &str = "$O delete --force $NAME";
const USER_START: &str = "$U run -d --name $NAME --rootfs $R -- /bin/busybox sleep 1000 >/dev/null";
const USER_CREATE: &str = "$V create --bundle $B/user-stay $NAME </dev/null && $V start $NAME";
const USER_DELETE: &str = "$V delete --force $NAME";

/// All paths.
pub(crate) const PATHS: &[Path] = &[
    Path {
        name: "run",
        before: "",
        traced: "$N run --name $NAME --rootfs $R -- $P",
        report: "",
        after: "$N rm -f $NAME",
        codes: NSPOD,
    },
    Path {
        name: "run -d",
        before: "",
        traced: "$N run -d --name $NAME --rootfs $R -- $P stay",
        report: "for i in $(seq 200); do $N logs $NAME | grep -q ^END && break; sleep 0.02; done; $N logs $NAME",
        after: "$N rm -f $NAME",
        codes: NSPOD,
    },
    Path {
        name: "exec",
        before: START,
        traced: "$N exec $NAME $P",
        report: "",
        after: "$N rm -f $NAME",
        codes: NSPOD,
    },
    Path {
        name: "pod create",
        before: "",
        traced: "$N pod create $NAME",
        report: "$N run --pod $NAME --name $NAME-c --rootfs $R -- $P",
        after: "$N pod rm -f $NAME",
        codes: NSPOD,
    },
    Path {
        name: "pod run",
        before: "$N pod create $NAME >/dev/null",
        traced: "$N run --pod $NAME --name $NAME-c --rootfs $R -- $P",
        report: "",
        after: "$N rm -f $NAME-c; $N pod rm -f $NAME",
        codes: NSPOD,
    },
    Path {
        name: "pod rm",
        before: "$N pod create $NAME >/dev/null",
        traced: "$N pod rm $NAME",
        report: "find /run /sys/fs/cgroup -name \"*$NAME*\"; $N pod ls | grep $NAME",
        after: "$N pod rm -f $NAME",
        codes: NSPOD,
    },
    Path {
        name: "rm -f",
        before: START,
        traced: "$N rm -f $NAME",
        report: "find /run /sys/fs/cgroup -name \"*$NAME*\"; $N ps -a | grep $NAME",
        after: "$N rm -f $NAME",
        codes: NSPOD,
    },
    Path {
        name: "run, as a user",
        before: "",
        traced: "$U run --name $NAME --rootfs $R -- $P",
        report: "",
        after: "$U rm -f $NAME; $U prune",
        codes: NSPOD,
    },
    Path {
        name: "run -d, as a user",
        before: "",
        traced: "$U run -d --name $NAME --rootfs $R -- $P stay",
        report: "for i in $(seq 200); do $U logs $NAME | grep -q ^END && break; sleep 0.02; done; $U logs $NAME",
        after: "$U rm -f $NAME; $U prune",
        codes: NSPOD,
    },
    Path {
        name: "exec, as a user",
        before: USER_START,
        traced: "$U exec $NAME $P",
        report: "",
        after: "$U rm -f $NAME; $U prune",
        codes: NSPOD,
    },
    Path {
        name: "pod create, as a user",
        before: "",
        traced: "$U pod create $NAME",
        report: "$U run --pod $NAME --name $NAME-c --rootfs $R -- $P",
        after: "$U pod rm -f $NAME; $U prune",
        codes: NSPOD,
    },
    Path {
        name: "pod run, as a user",
        before: "$U pod create $NAME >/dev/null",
        traced: "$U run --pod $NAME --name $NAME-c --rootfs $R -- $P",
        report: "",
        after: "$U rm -f $NAME-c; $U pod rm -f $NAME; $U prune",
        codes: NSPOD,
    },
    Path {
        name: "rm -f, as a user",
        before: USER_START,
        traced: "$U rm -f $NAME",
        report: "find /run -name \"*$NAME*\"; $U ps -a | grep $NAME",
        after: "$U rm -f $NAME; $U prune",
        codes: NSPOD,
    },
    Path {
        name: "oci run, as a user",
        before: "",
        traced: "$V run --bundle $B/user-probe $NAME",
        report: "",
        after: USER_DELETE,
        codes: OCI,
    },
    Path {
        name: "oci create and start, as a user",
        before: "",
        traced: USER_CREATE,
        report: "for i in $(seq 200); do grep -q ^END $OUT && break; sleep 0.02; done; cat $OUT",
        after: USER_DELETE,
        codes: OCI,
    },
    Path {
        name: "oci exec, as a user",
        before: USER_CREATE,
        traced: "$V exec $NAME $P",
        report: "",
        after: USER_DELETE,
        codes: OCI,
    },
    Path {
        name: "oci run",
        before: "",
        traced: "$O run --bundle $B/probe $NAME",
        report: "",
        after: DELETE,
        codes: OCI,
    },
    Path {
        name: "oci create and start",
        before: "",
        traced: CREATE,
        report: "for i in $(seq 200); do grep -q ^END $OUT && break; sleep 0.02; done; cat $OUT",
        after: DELETE,
        codes: OCI,
    },
    Path {
        name: "oci exec",
        before: CREATE,
        traced: "$O exec $NAME $P",
        report: "",
        after: DELETE,
        codes: OCI,
    },
    Path {
        name: "oci kill",
        before: CREATE,
        traced: "$O kill $NAME KILL",
        report: "for i in $(seq 200); do $O state $NAME | grep -q stopped && break; sleep 0.02; done; \
                 $O state $NAME | grep -o '\"status\": *\"[a-z]*\"'",
        after: DELETE,
        codes: OCI,
    },
    Path {
        name: "oci delete",
        before: "$O create --bundle $B/stay $NAME </dev/null && $O start $NAME && $O kill $NAME KILL && \
                 until $O state $NAME | grep -q stopped; do sleep 0.02; done",
        traced: "$O delete $NAME",
        report: "find /run /sys/fs/cgroup -name \"*$NAME*\"",
        after: DELETE,
        codes: OCI,
    },
    Path {
        name: "oci update",
        before: CREATE,
        traced: "echo '{}' | $O update --resources - $NAME",
        report: "$O state $NAME | grep -o '\"status\": *\"[a-z]*\"'",
        after: DELETE,
        codes: OCI,
    },
];
