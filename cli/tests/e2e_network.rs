//! Networks that lead out of a container or pod. Each test has a net namespace of its own as its host, so that
//! interfaces, rules and ports live and end there.

mod common;

use std::process::Command;

use common::user::User;
use common::{NSPOD, Output, nspod, root, run_with, unique};

/// Gives the host an interface with a default route. It also has the address of pasta's gateway: a server there answers
/// the connections that pasta does not map to the loopback address.
const HOST: &str = "
ip link set lo up
ip link add wan type veth peer name far && ip link set wan up && ip link set far up
ip addr add 198.51.100.2/24 dev wan && ip -6 addr add 2001:db8::2/64 dev wan nodad
ip route add default via 198.51.100.1 && ip -6 route add default via 2001:db8::1
ip addr add 10.0.2.2/32 dev lo
";

/// Helpers of the scripts. `serve PORT [ADDRESS [ANSWER]]` answers the first byte of each TCP connection, and each UDP
/// packet, with `hello`. (pasta of 2023 completes a connection only when the client has sent something.) perl and the shell start
/// fast in the emulated guest.
const HELPERS: &str = r#"
SERVE='
use Socket qw(:all);
$SIG{PIPE} = "IGNORE";
socket(my $tcp, AF_INET6, SOCK_STREAM, 0) && socket(my $udp, AF_INET6, SOCK_DGRAM, 0) or die "socket: $!";
setsockopt($tcp, SOL_SOCKET, SO_REUSEADDR, 1);
my $answer = ($ARGV[2] // "hello") . "\n";
my $address = pack_sockaddr_in6($ARGV[0], inet_pton(AF_INET6, $ARGV[1] // "::"));
for ($tcp, $udp) { bind($_, $address) or die "bind: $!" }
listen($tcp, 9);
syswrite(STDOUT, "ready\n");
while (1) {
    my $readable = "";
    vec($readable, fileno($_), 1) = 1 for $tcp, $udp;
    select($readable, undef, undef, undef);
    if (vec($readable, fileno($tcp), 1)) {
        accept(my $connection, $tcp);
        sysread($connection, my $byte, 1);
        syswrite($connection, $answer);
    }
    if (vec($readable, fileno($udp), 1)) {
        my $peer = recv($udp, my $byte, 9, 0);
        send($udp, $answer, 0, $peer);
    }
}
'
serve() { setsid perl -e "$SERVE" "$@" >$T/serve.$1$2 2>&1 & until_true grep -q ready $T/serve.$1$2; }
until_true() { for n in $(seq 300); do "$@" >/dev/null 2>&1 && return; sleep 0.05; done; echo "never: $*"; return 1; }
# Asks ADDRESS PORT by TCP and by UDP.
tcp() { (exec 3<>/dev/tcp/$1/$2 && echo >&3 && read -r answer <&3 && echo "$answer") 2>/dev/null || echo none; }
udp() { (exec 3<>/dev/udp/$1/$2 && echo >&3 && head -n1 <&3) 2>/dev/null || echo none; }
# Prints what must not be there after the end.
left() {
    find /run/nspod/containers /run/nspod/pods -mindepth 1 2>/dev/null
    grep nspod /proc/self/mounts | grep -v ' /run tmpfs' | grep -v ' / '
    ip -br link | grep -E 'veth|eth0'
    iptables-save -t nat 2>/dev/null | grep -E 'CNI-[0-9a-f]|CNI-DN|dport'
    find $T/leases -name '[0-9]*' -o -name '*:*' 2>/dev/null
    pgrep -af "^[^ ]*pasta .*/$C/"
    :
}
"#;

/// Networks of CNI in `$T/lists`: front publishes ports and has IPv6. back is fast, and `back PLUGIN` adds a plugin.
const LISTS: &str = r#"
mkdir -p $T/lists
cat >$T/lists/10-front.conflist <<END
{"cniVersion": "1.0.0", "name": "front", "plugins": [
  {"type": "bridge", "bridge": "front0", "isGateway": true, "ipMasq": true, "ipam": {
    "type": "host-local", "dataDir": "$T/leases",
    "ranges": [[{"subnet": "10.88.7.0/24"}], [{"subnet": "fd00:88::/64"}]],
    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}]}
END
back() {
    local more=; [ $# = 0 ] || more=", {\"type\": \"$1\"}"
    cat >$T/lists/20-back.conflist <<END
{"cniVersion": "1.0.0", "name": "back", "plugins": [
  {"type": "loopback"},
  {"type": "bridge", "bridge": "back0", "isGateway": true, "ipam": {
    "type": "host-local", "dataDir": "$T/leases",
    "ranges": [[{"subnet": "10.88.8.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}$more]}
END
}
back
export NETCONFPATH=$T/lists
"#;

/// Runs nspod as an ordinary user.
const AS_USER: &str = r#"as_user() { setpriv --reuid=65534 --regid=65534 --clear-groups env XDG_RUNTIME_DIR=$T NSPOD_LOG_DIR=$T/user.logs $T/bin "$@"; }"#;

/// Runs a script with `$N` for nspod, `$T` for a directory and `$C` for a name, on a host of its own.
fn on_a_host(script: &str) -> Output {
    let dir = User::new();
    let script = format!("mount -t tmpfs none /run; {HOST}{HELPERS}{AS_USER}{LISTS}{script}");
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--propagation", "private", "bash", "-c", &script]);
    command
        .env("N", NSPOD)
        .env("T", dir.dir())
        .env("C", unique())
        .env("NSPOD_LOG_DIR", dir.dir().join("logs"));
    // Servers of the script end with the test.
    let output = run_with(&mut command, "");
    let _ = Command::new("sh")
        .arg("-c")
        .arg(format!(
            "for f in /proc/[0-9]*; do grep -qz '^T={}$' $f/environ 2>/dev/null && kill ${{f#/proc/}}; done",
            dir.dir().display()
        ))
        .status();
    output
}

#[track_caller]
fn prints(script: &str, expected: &str) {
    let output = on_a_host(script);
    assert_eq!(output.out, expected, "{}", output.err);
}

#[test]
fn pasta_leads_out_and_published_ports_lead_in() {
    if !root() {
        return;
    }
    let script = r#"
serve 7000; serve 7001 ::ffff:127.0.0.1; serve 7001 ::ffff:10.0.2.2 gateway; tcp 127.0.0.1 7001
$N run --network pasta bash -c "$(declare -f tcp udp); tcp 198.51.100.2 7000; tcp 2001:db8::2 7000; udp 198.51.100.2 7000; udp 2001:db8::2 7000; tcp 127.0.0.1 7001; tcp 10.0.2.2 7001"
# pasta of 2023 publishes UDP on the loopback address only if both ports are the same.
$N run -d --name $C --network pasta -p 8080:80 -p 80:80/udp -p 127.0.0.1:8081:80 perl -e "$SERVE" 80 >/dev/null
until_true sh -c "$N logs $C | grep ready"
for address in 198.51.100.2 2001:db8::2; do tcp $address 8080; udp $address 80; udp $address 80; tcp $address 8080; done
for address in 127.0.0.1 ::1; do tcp $address 8080; udp $address 80; done
tcp 127.0.0.1 8081; tcp 198.51.100.2 8081; tcp 127.0.0.1 80
$N run --network pasta -p 8080:80 true 2>&1 | grep -o 'another program uses a published port'
$N rm -f $C >/dev/null; left"#;
    let hello = |count| "hello\n".repeat(count);
    let expected = [
        &hello(5),
        "none\ngateway\n",
        &hello(8),
        &hello(4),
        "hello\nnone\nnone\n",
        "another program uses a published port\n",
    ];
    prints(script, &expected.concat());
}

#[test]
fn the_example_of_readme_answers() {
    if !root() {
        return;
    }
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let mut blocks = readme.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let block = blocks.find(|block| block.contains("--network pasta")).unwrap();
    assert_eq!(block.matches(" front").count(), 2, "{block}");
    let block = block.replace(" front", " $C");
    let script = format!("nspod() {{ $N \"$@\" | grep -v ^$C; }}\n{block}left");
    prints(&script, "hello from a container\n");
}

#[test]
fn pasta_is_in_the_containers_cgroup_with_nothing_of_the_caller() {
    if !root() {
        return;
    }
    let script = r#"
exec 9</etc/passwd
SECRET=1 $N run -d --name $C --network pasta sleep 1000 >/dev/null
P=/proc/$(cat /run/nspod/containers/$C/pasta.pid)
grep -o "nspod/$C" $P/cgroup; wc -c <$P/environ; ls -l $P/fd | grep -c passwd; readlink $P/root
[ $(readlink $P/ns/pid) != $($N exec $C readlink /proc/self/ns/pid) ] && echo another pid namespace
$N exec $C sh -c 'cat /proc/[0-9]*/cmdline | tr "\0" " "' | grep -c pasta
$N inspect $C | grep -o '"mode": "pasta"'
$N rm -f $C >/dev/null; left"#;
    let output = on_a_host(script);
    let lines: Vec<&str> = output.out.lines().skip(1).collect();
    assert!(output.out.starts_with("nspod/e2e-"), "{output:?}");
    assert_eq!(lines, ["0", "0", "/", "another pid namespace", "0", "\"mode\": \"pasta\""], "{}", output.err);
}

#[test]
fn pasta_ends_with_the_container_in_each_way() {
    if !root() {
        return;
    }
    let script = r#"
$N run --network pasta --name $C true; left
echo killed program
$N run -d --name $C --network pasta sleep 1000 >/dev/null; $N kill $C; $N rm $C >/dev/null; left
echo killed runner
$N run --name $C --network pasta sleep 1000 & until_true $N exec $C true; kill -9 $!; wait $! 2>/dev/null; $N kill $C; $N ps >/dev/null; left
echo ended
$N run -d --name $C --network pasta -p 8080:80 true >/dev/null; gone() { ! pgrep -f "^[^ ]*pasta .*/$C/"; }; until_true gone; $N wait $C; $N prune >/dev/null; left
echo failed
$N run --name $C --network pasta no-such 2>/dev/null; left"#;
    prints(script, "killed program\nkilled runner\nended\n0\nfailed\n");
}

#[test]
fn a_container_that_has_ended_gives_its_ports_back() {
    if !root() {
        return;
    }
    let script = r#"
gone() { ! pgrep -f "^[^ ]*pasta .*/$C/" >/dev/null; }
start() { $N run -d --name $C --network pasta -p 8080:80 "$@" >/dev/null; }
ended() { [ $($N inspect $C | grep -o '"state": "exited"' | wc -l) = 1 ]; }
for command in wait stop ps; do
    start sleep 1000
    [ $command = stop ] || $N exec $C kill 2; [ $command = stop ] || until_true ended
    case $command in ps) $N ps >/dev/null;; *) $N $command $C >/dev/null;; esac
    gone && echo $command; $N inspect $C | grep -o '"network": null'; $N rm $C >/dev/null
done
start true; until_true ended; $N run --network pasta -p 8080:80 echo run; $N rm $C >/dev/null; left"#;
    prints(script, "wait\n\"network\": null\nstop\n\"network\": null\nps\n\"network\": null\nrun\n");
}

#[test]
fn names_are_looked_up_in_files_of_the_container() {
    if !root() {
        return;
    }
    let script = r#"
echo 'search example.org
nameserver 127.0.0.53
nameserver 192.0.2.53' >$T/resolv; mount --bind $T/resolv /etc/resolv.conf
$N run --network pasta -h box sh -c 'cat /etc/hosts /etc/resolv.conf; echo x 2>/dev/null >/etc/hosts || echo read-only'
$N run -h box cat /etc/resolv.conf
$N run --network cni:front -h box sh -c 'grep box /etc/hosts; cat /etc/resolv.conf'
echo mine >$T/mine; $N run --network pasta -v $T/mine:/etc/hosts cat /etc/hosts; left"#;
    let pasta = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.2.100\tbox\nfd00:6e73:706f:64::100\tbox
search example.org\nnameserver 10.0.2.3\nnameserver 192.0.2.53\nread-only\n";
    let none = "search example.org\nnameserver 127.0.0.53\nnameserver 192.0.2.53\n";
    let cni = "10.88.7.2\tbox\nfd00:88::2\tbox\nsearch example.org\nnameserver 192.0.2.53\n";
    prints(script, &format!("{pasta}{none}{cni}mine\n"));
}

#[test]
fn the_containers_of_a_pod_share_its_network() {
    if !root() {
        return;
    }
    for network in ["pasta", "cni:front"] {
        let script = format!(
            r#"
serve 7000
$N pod create --network {network} -p 8080:80 $C >/dev/null
$N run -d --name $C --pod $C perl -e "$SERVE" 80 >/dev/null; until_true sh -c "$N logs $C | grep ready"
$N run --pod $C bash -c "$(declare -f tcp); tcp 127.0.0.1 80; tcp 198.51.100.2 7000; grep -c $C /etc/hosts"
tcp 198.51.100.2 8080
$N pod inspect $C | grep -o '"mode": "[^"]*"'
$N pod rm -f $C >/dev/null; find /run/nspod/containers -mindepth 1 -delete; left"#
        );
        prints(&script, &format!("hello\nhello\n4\nhello\n\"mode\": \"{network}\"\n"));
    }
}

#[test]
fn the_plugins_of_cni_lead_out_and_in() {
    if !root() {
        return;
    }
    let script = r#"
serve 7000
$N run -d --name $C --network cni:front -p 8080:80 -p 8080:80/udp perl -e "$SERVE" 80 >/dev/null
until_true sh -c "$N logs $C | grep ready"
# The kernel uses an IPv6 address of the bridge when no other host has answered that it has the same.
usable() { ! ip -6 addr | grep -q tentative; }
until_true usable
$N exec $C bash -c "$(declare -f tcp udp); tcp 198.51.100.2 7000; tcp 2001:db8::2 7000; udp 10.88.7.1 7000"
tcp 198.51.100.2 8080; tcp 2001:db8::2 8080; udp 198.51.100.2 8080; udp 2001:db8::2 8080; tcp 127.0.0.1 8080
$N rm -f $C >/dev/null; left"#;
    prints(script, &"hello\n".repeat(8));
}

#[test]
fn inspect_checks_the_network() {
    if !root() {
        return;
    }
    let script = r#"
problem() { $N inspect $C | grep -o '"problem": [^:]*'; }
$N run -d --name $C --network cni:back sleep 1000 >/dev/null
net() { nsenter --net=/run/nspod/containers/$C/netns/net ip "$@"; }
problem
net link set lo down; problem; net link set lo up
net route del default; problem
$N rm -f $C >/dev/null; left"#;
    let expected = "\"problem\": null,
\"problem\": \"the CNI plugin loopback failed with CHECK in the network back
\"problem\": \"the CNI plugin bridge failed with CHECK in the network back
";
    prints(script, expected);
}

#[test]
fn del_follows_each_end_of_a_container() {
    if !root() {
        return;
    }
    let script = r#"
f="--name $C --network cni:back"
$N run $f true; left
echo killed program
$N run -d $f sleep 1000 >/dev/null; $N kill $C; $N rm $C >/dev/null; left
echo killed runner
$N run $f sleep 1000 & until_true $N exec $C true; kill -9 $!; wait $! 2>/dev/null; $N kill $C; $N ps >/dev/null; left
echo removed
$N run -d $f sleep 1000 >/dev/null; $N rm -f $C >/dev/null; left
echo ended
$N run -d $f true >/dev/null; $N wait $C; $N prune >/dev/null; left
echo failed
$N run $f no-such 2>/dev/null; left"#;
    prints(script, "killed program\nkilled runner\nremoved\nended\n0\nfailed\n");
}

#[test]
fn a_start_that_is_killed_between_plugins_is_undone_by_prune() {
    if !root() {
        return;
    }
    let script = r#"
mkdir $T/plugins; ln -s /usr/lib/cni/* $T/plugins
printf '#!/bin/sh\n[ $CNI_COMMAND = ADD ] || exit 0\necho $$ >$0.reached\nexec sleep 1000\n' >$T/plugins/stuck; chmod +x $T/plugins/stuck
back stuck; export CNI_PATH=$T/plugins
$N run --name $C --network cni:back true & until_true test -s $T/plugins/stuck.reached
left | grep -c leases
kill -9 $!; wait $! 2>/dev/null; kill $(cat $T/plugins/stuck.reached); $N prune >/dev/null; left"#;
    prints(script, "1\n");
}

#[test]
fn a_failed_plugin_ends_the_start() {
    if !root() {
        return;
    }
    let script = r#"
mkdir $T/plugins; ln -s /usr/lib/cni/* $T/plugins
printf '#!/bin/sh\n[ $CNI_COMMAND = ADD ] || exit 0\necho "{\\"code\\": 7, \\"msg\\": \\"no\\", \\"details\\": \\"not today\\"}"; exit 1\n' >$T/plugins/never; chmod +x $T/plugins/never
back never; export CNI_PATH=$T/plugins
$N run --name $C --network cni:back echo started 2>&1; echo $?; left
$N pod create --network cni:back $C 2>&1; left"#;
    let why = "nspod: the CNI plugin never failed with ADD in the network back: no: not today (code 7)\n";
    prints(script, &format!("{why}125\n{why}"));
}

#[test]
fn what_is_not_installed_is_named() {
    if !root() {
        return;
    }
    let script = r#"
mount --bind /dev/null /usr/bin/pasta
PATH=/usr/sbin:/usr/bin:/sbin:/bin
$N run --network pasta true 2>&1; $N pod create --network pasta $C 2>&1
CNI_PATH=$T $N run --network cni:front true 2>&1 | sed "s,$T,DIR,"
$N run --network cni:nowhere true 2>&1 | sed "s,$T,DIR,"
$N run --network cni:back -p 80:80 true 2>&1; left"#;
    let pasta = "nspod: the program pasta is not installed: install Debian's package passt\n";
    let others = "nspod: the CNI plugin bridge is not installed in DIR; install Debian's package containernetworking-plugins, or set CNI_PATH
nspod: there is no CNI network nowhere in DIR/lists; its networks are front, back
nspod: -p requires a plugin with the capability portMappings, and the CNI network back has none; add {\"type\": \"portmap\", \"capabilities\": {\"portMappings\": true}} to its plugins
";
    prints(script, &format!("{pasta}{pasta}{others}"));
    let refused = nspod(&["run", "-p", "80:80", "true"]);
    let want = "nspod: -p requires a network that leads out: `--network pasta -p 80:80`, or `--network cni:NAME -p 80:80`\n";
    assert_eq!(refused.err, want);
}

#[test]
fn an_ordinary_user_has_pasta() {
    if !root() {
        return;
    }
    let script = r#"
mknod $T/tun c 10 200 && chmod 666 $T/tun && mount --bind $T/tun /dev/net/tun
serve 7000; serve 7001 ::ffff:127.0.0.1; serve 7001 ::ffff:10.0.2.2 gateway
as_user run --network pasta bash -c "$(declare -f tcp udp); tcp 198.51.100.2 7000; tcp 2001:db8::2 7000; udp 198.51.100.2 7000; tcp 10.0.2.2 7001; grep -c 10.0.2.100 /etc/hosts"
as_user run -d --name $C --network pasta -p 8080:80 -p 8080:80/udp perl -e "$SERVE" 80 >/dev/null
ready() { as_user logs $C | grep ready; }; until_true ready
tcp 127.0.0.1 8080; tcp 198.51.100.2 8080; udp 198.51.100.2 8080; udp 2001:db8::2 8080
as_user rm -f $C >/dev/null; tcp 127.0.0.1 8080
as_user pod create --network pasta -p 8080:80 $C >/dev/null
as_user run --pod $C bash -c "$(declare -f tcp); tcp 198.51.100.2 7000"
as_user pod rm $C >/dev/null
as_user run --network cni:front true 2>&1
find $T/nspod/containers $T/nspod/pods -mindepth 1; left"#;
    let refused =
        "nspod: the plugins of the CNI network front require CAP_SYS_ADMIN; use `--network pasta`\n";
    prints(
        script,
        &format!("hello\nhello\nhello\ngateway\n1\nhello\nhello\nhello\nhello\nnone\nhello\n{refused}"),
    );
}
