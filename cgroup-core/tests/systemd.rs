//! Scopes and slices of a real systemd. The tests start this program again beside their own user
//! manager; the steps are in the module `beside_systemd`.

mod common;

use cgroup_core::Hierarchy;
use common::Own;

fn own() -> Own {
    let own = Own::new();
    own.enable_path(Hierarchy::detect().unwrap().controllers()).unwrap();
    own
}

#[test]
fn systemd_serves_requests_over_a_bus() {
    let bus = [("NSPOD_TEST_SYSTEMD", "user")];
    let Some(out) = common::beside_systemd(&own(), 0, &["beside_systemd::"], &bus) else { return };
    assert!(out.contains(" 7 passed"), "{out}");
}

#[test]
fn the_system_manager_is_reached_on_the_bus_of_the_environment() {
    let bus = [("NSPOD_TEST_SYSTEMD", "any"), ("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/run/user/0/bus")];
    let name = "beside_systemd::a_held_scope_exists_and_has_its_properties";
    let Some(out) = common::beside_systemd(&own(), 0, &["--exact", name], &bus) else { return };
    assert!(out.contains(" 1 passed"), "{out}");
}

#[test]
fn systemd_is_reached_directly_without_a_bus() {
    let none = [("NSPOD_TEST_SYSTEMD", "user"), ("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent")];
    let name = "beside_systemd::a_held_scope_exists_and_has_its_properties";
    let Some(out) = common::beside_systemd(&own(), 0, &["--exact", name], &none) else { return };
    assert!(out.contains(" 1 passed"), "{out}");
}

mod beside_systemd {
    use std::process::Command;
    use std::time::Duration;

    use cgroup_core::systemd::{Manager, Property, Scope};
    use cgroup_core::{Controller, CpuMax, Error, ErrorKind, Limits, Max};

    use nspod_testkit::{Guard, eventually};

    const MIB: u64 = 1 << 20;

    /// Returns the user manager, or for `any` the manager that the library chooses.
    fn manager() -> Manager {
        let which = std::env::var("NSPOD_TEST_SYSTEMD");
        if which.as_deref() == Ok("user") { Manager::user() } else { Manager::connect() }.unwrap()
    }

    /// Returns properties of a unit as systemctl prints them.
    fn shown(unit: &str, names: &[&str]) -> Vec<String> {
        let mut command = Command::new("systemctl");
        if std::env::var_os("NSPOD_TEST_SYSTEMD").is_some() {
            command.args(["--user"]).env_remove("DBUS_SESSION_BUS_ADDRESS");
        }
        let out = command.args(["show", "--value", unit]).args(names.iter().map(|name| format!("-p{name}")));
        let out = out.output().unwrap();
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout)
            .unwrap()
            .lines()
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// Compares the properties one by one, because systemctl prints them in its own order.
    fn each_shown(unit: &str, expected: &[(&str, &str)]) {
        for (name, value) in expected {
            assert_eq!(shown(unit, &[name]), [*value], "{name}");
        }
    }

    fn unknown(error: &Error) -> bool {
        error.kind() == ErrorKind::NotFound && error.to_string().contains("NoSuchUnit")
    }

    fn limits() -> Limits {
        Limits {
            cpu_max: Some(CpuMax::new(50_000, 200_000)),
            cpu_weight: Some(50),
            cpuset_cpus: Some("0".parse().unwrap()),
            cpuset_mems: Some("0".parse().unwrap()),
            memory_low: Some(Max::Value(MIB)),
            memory_max: Some(Max::Value(64 * MIB)),
            memory_swap_max: Some(Max::Value(0)),
            pids_max: Some(Max::Value(20)),
            io_weight: Some(30),
            ..Limits::default()
        }
    }

    #[test]
    #[ignore = "run beside a systemd, by the tests above"]
    fn a_held_scope_exists_and_has_its_properties() {
        let unit = "nspod-properties.scope";
        let scope = Scope {
            slice: Some("nspodtest-a.slice".into()),
            description: "a scope that is held".into(),
            properties: Property::of_limits(&limits()).unwrap(),
            ..Scope::new(unit)
        };
        let held = manager().hold_scope(&scope).unwrap();
        assert!(held.cgroup().path().ends_with("nspodtest.slice/nspodtest-a.slice/nspod-properties.scope"));
        assert_eq!(held.cgroup().procs().unwrap().len(), 1);
        let expected = [
            ("Description", "a scope that is held"),
            ("Slice", "nspodtest-a.slice"),
            ("Delegate", "yes"),
            ("DefaultDependencies", "no"),
            ("CollectMode", "inactive-or-failed"),
            ("MemoryAccounting", "yes"),
            ("CPUAccounting", "yes"),
            ("IOAccounting", "yes"),
            ("TasksAccounting", "yes"),
            ("MemoryLow", "1048576"),
            ("MemoryMax", "67108864"),
            ("MemorySwapMax", "0"),
            ("CPUWeight", "50"),
            ("CPUQuotaPerSecUSec", "250ms"),
            ("CPUQuotaPeriodUSec", "200ms"),
            ("AllowedCPUs", "0"),
            ("AllowedMemoryNodes", "0"),
            ("TasksMax", "20"),
            ("IOWeight", "30"),
        ];
        each_shown(unit, &expected);
        // systemd writes the limits whose controllers the kernel has.
        for (file, value) in
            [("memory.max", "67108864\n"), ("cpu.max", "50000 200000\n"), ("pids.max", "20\n")]
        {
            let available = held.cgroup().available().unwrap();
            let expected = Controller::of_file(file).filter(|&one| available.contains(one.into()));
            let read = held.cgroup().read_if_there(file).unwrap();
            assert_eq!(read.as_deref(), expected.map(|_| value), "{file}");
        }
    }

    #[test]
    #[ignore = "run beside a systemd, by the tests above"]
    fn a_scope_is_removed_after_its_last_process() {
        let (mut manager, unit) = (manager(), "nspod-life.scope");
        let held = manager.hold_scope(&Scope::new(unit)).unwrap();
        let helper = Guard::sleep();
        held.cgroup().attach(helper.pid()).unwrap();
        let cgroup = held.release();
        assert_eq!(cgroup.procs().unwrap(), [helper.pid()]);
        // Enough time for a manager to end the scope, if it did so with the placeholder.
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(manager.cgroup_of(unit).unwrap().path(), cgroup.path());
        drop(helper);
        eventually("the cgroup goes with the last process", || !cgroup.path().exists());
        eventually("the unit is forgotten", || super::beside_systemd::manager().cgroup_of(unit).is_err());
        assert!(unknown(&manager.cgroup_of(unit).unwrap_err()));
    }

    #[test]
    #[ignore = "run beside a systemd, by the tests above"]
    fn an_unused_scope_is_removed_with_its_placeholder() {
        let held = manager().hold_scope(&Scope::new("nspod-empty.scope")).unwrap();
        let path = held.cgroup().path().to_owned();
        drop(held);
        eventually("the cgroup goes", || !path.exists());
    }

    #[test]
    #[ignore = "run beside a systemd, by the tests above"]
    fn properties_of_a_running_scope_change_and_an_unknown_one_is_refused_by_name() {
        let (mut manager, unit) = (manager(), "nspod-change.scope");
        let held = manager.hold_scope(&Scope::new(unit)).unwrap();
        let limits = Limits { memory_max: Some(Max::Value(32 * MIB)), pids_max: Some(Max::Max), ..limits() };
        manager.set_properties(unit, &Property::of_limits(&limits).unwrap()).unwrap();
        each_shown(unit, &[("MemoryMax", "33554432"), ("TasksMax", "infinity")]);
        let error = manager.set_properties(unit, &[Property::new("MemoryMaximum", 1_u64)]).unwrap_err();
        assert!(error.to_string().starts_with("systemd cannot change nspod-change.scope: "), "{error}");
        assert!(error.to_string().contains("MemoryMaximum"), "{error}");
        drop(held);
        eventually("the unit is gone", || super::beside_systemd::manager().cgroup_of(unit).is_err());
        assert!(unknown(&manager.set_properties(unit, &[]).unwrap_err()));
    }

    #[test]
    #[ignore = "run beside a systemd, by the tests above"]
    fn stopping_a_scope_ends_its_processes_and_can_be_repeated() {
        let (mut manager, unit) = (manager(), "nspod-stop.scope");
        let mut helper = Guard::sleep();
        let cgroup = manager.start_scope(&Scope::new(unit), helper.pid()).unwrap();
        assert_eq!(cgroup.procs().unwrap(), [helper.pid()]);
        let error = manager.hold_scope(&Scope::new(unit)).unwrap_err();
        assert!(error.to_string().contains("UnitExists"), "{error}");
        manager.stop(unit).unwrap();
        helper.0.wait().unwrap();
        assert!(!cgroup.path().exists());
        manager.stop(unit).unwrap();
    }

    #[test]
    #[ignore = "run beside a systemd, by the tests above"]
    fn a_failed_scope_can_be_replaced() {
        let (mut manager, unit) = (manager(), "nspod-again.scope");
        let properties =
            vec![Property::new("CollectMode", "inactive"), Property::new("RuntimeMaxUSec", 1_000_u64)];
        // The scope may end before its cgroup is found.
        let first = manager.hold_scope(&Scope { properties, ..Scope::new(unit) });
        assert!(
            first.as_ref().map_or_else(|error| error.kind() == ErrorKind::NotFound, |_| true),
            "{first:?}"
        );
        eventually("the scope fails", || shown(unit, &["ActiveState"]) == ["failed"]);
        drop(first);
        // systemd forgets the cgroup of a failed scope when the last process has left it.
        eventually("the cgroup is removed", || shown(unit, &["ControlGroup"]).is_empty());
        let error = manager.cgroup_of(unit).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.to_string(), "the unit nspod-again.scope has no cgroup; it has ended");
        let again = manager.hold_scope(&Scope::new(unit)).unwrap();
        each_shown(unit, &[("ActiveState", "active")]);
        drop(again);
    }

    #[test]
    #[ignore = "run beside a systemd, by the tests above"]
    fn an_empty_slice_stays_and_its_properties_can_be_changed() {
        let (mut manager, unit) = (manager(), "nspodpods-p1.slice");
        let memory = |mib| {
            Property::of_limits(&Limits { memory_max: Some(Max::Value(mib * MIB)), ..Limits::default() })
        };
        let cgroup = manager.start_slice(unit, &memory(64).unwrap()).unwrap();
        assert!(cgroup.path().ends_with("nspodpods.slice/nspodpods-p1.slice"), "{}", cgroup.path().display());
        each_shown(unit, &[("MemoryMax", "67108864"), ("ActiveState", "active")]);
        let again = manager.start_slice(unit, &memory(32).unwrap()).unwrap();
        assert_eq!(again.path(), cgroup.path());
        each_shown(unit, &[("MemoryMax", "33554432")]);
        let inside =
            manager.hold_scope(&Scope { slice: Some(unit.into()), ..Scope::new("nspod-in.scope") }).unwrap();
        assert_eq!(inside.cgroup().parent().unwrap().unwrap().path(), cgroup.path());
        drop(inside);
        manager.stop(unit).unwrap();
        assert!(!cgroup.path().exists());
    }
}
