//! Device rules survive printing and parsing. Their program decides according to the rules, as an independent
//! interpreter of eBPF shows.
#![no_main]

use cgroup_core::device::{Access, Instruction, Kind, Rule, allows, compile};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let rules: Vec<Rule> = text.lines().take(40).filter_map(|line| line.parse().ok()).collect();
    for rule in &rules {
        assert_eq!(rule.to_string().parse::<Rule>().unwrap(), *rule);
    }
    let program = bytes(&compile(&rules));
    let machine = rbpf::EbpfVmRaw::new(Some(&program)).unwrap();
    let of_rules = rules.iter().map(|r| (r.major.unwrap_or(7), r.minor.unwrap_or(7)));
    for (major, minor) in of_rules.chain([(1, 3)]) {
        for (kind, number) in [(Kind::Block, 1), (Kind::Char, 2)] {
            for access in (0..8).map(Access::from_bits_truncate) {
                let words = [u32::from(access.bits()) << 16 | number, major, minor];
                let mut context: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
                let verdict = machine.execute_program(&mut context).unwrap() == 1;
                let expected = allows(&rules, kind, major, minor, access);
                assert_eq!(verdict, expected, "{kind} {major}:{minor} {access}");
            }
        }
    }
});

/// The instruction as the kernel reads it: `struct bpf_insn`.
fn bytes(program: &[Instruction]) -> Vec<u8> {
    let one = |i: &Instruction| {
        let ([a, b], [c, d, e, f]) = (i.offset.to_le_bytes(), i.immediate.to_le_bytes());
        [i.code, i.registers, a, b, c, d, e, f]
    };
    program.iter().flat_map(one).collect()
}
