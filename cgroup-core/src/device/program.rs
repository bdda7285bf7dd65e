//! Compiling device rules to eBPF instructions: a pure function.

use super::rule::{Access, Kind, Rule};

/// An eBPF instruction: `struct bpf_insn` of the kernel.
/// Documentation/bpf/standardization/instruction-set.rst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Operation code.
    pub code: u8,
    /// Destination register in the low four bits, source register in the high four.
    pub registers: u8,
    /// Number of instructions that a jump skips, or byte offset of a load.
    pub offset: i16,
    /// Constant operand.
    pub immediate: i32,
}

impl Instruction {
    /// Returns the bytes of `struct bpf_insn` as one number.
    pub(crate) fn to_bits(self) -> u64 {
        let [a, b] = self.offset.to_ne_bytes();
        let [c, d, e, f] = self.immediate.to_ne_bytes();
        u64::from_ne_bytes([self.code, self.registers, a, b, c, d, e, f])
    }
}

// Registers: r0 is the verdict, r1 points to the kernel's struct bpf_cgroup_dev_ctx.
const VERDICT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

// Operations, by the kernel's instruction set (docs.kernel.org/bpf/standardization/instruction-set.html).
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbf;
const SET: u8 = 0xb7;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP: u8 = 0x05;
const JUMP_IF_ANY_BIT: u8 = 0x45;
/// Compares the low 32 bits, so constants are not sign-extended. Since Linux 5.1.
const JUMP_UNLESS_EQUAL: u8 = 0x56;
const EXIT: u8 = 0x95;

/// Compiles rules to a program that decides like [`allows`](super::allows). The program goes
/// through the rules from the last to the first, with the set of undecided accesses. An allow rule
/// removes its accesses from the set, and allows when the set is empty. A deny rule denies if one
/// of its accesses is in the set.
///
/// The kernel runs device programs since Linux 4.15, and the jumps that this program contains since
/// Linux 5.1. Section "Device controller".
pub fn compile(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        // struct bpf_cgroup_dev_ctx { u32 access << 16 | type; u32 major; u32 minor; }
        load(KIND, 0),
        instruction(MOVE, ACCESS, KIND, 0, 0),
        constant(SHIFT_RIGHT, ACCESS, 16),
        constant(AND, KIND, 0xffff),
        load(MAJOR, 4),
        load(MINOR, 8),
        constant(SET, VERDICT, 0),
    ];
    let last_first: Vec<&Rule> = rules.iter().rev().collect();
    for rules in last_first.chunks(LONGEST) {
        program.extend(under(&CONDITIONS, rules));
    }
    program.push(instruction(EXIT, 0, 0, 0, 0));
    program
}

/// A condition of a rule: a register, and the value that the rule requires in it.
type Condition = (u8, fn(&Rule) -> Option<u32>);

const CONDITIONS: [Condition; 3] = [
    (KIND, |rule| match rule.kind {
        Kind::All => None,
        Kind::Block => Some(1),
        Kind::Char => Some(2),
    }),
    (MAJOR, |rule| rule.major),
    (MINOR, |rule| rule.minor),
];

/// Rules per block. A block has at most seven times as many instructions, which a jump can skip.
const LONGEST: usize = 1000;

/// Compiles rules with the remaining conditions. A condition that consecutive rules share is tested
/// once, because the verifier follows every jump and takes most of the time of a load.
fn under(conditions: &[Condition], rules: &[&Rule]) -> Vec<Instruction> {
    let Some((&(register, demand), further)) = conditions.split_first() else {
        return rules.iter().flat_map(|rule| decide(rule)).collect();
    };
    let mut program = Vec::new();
    for run in rules.chunk_by(|a, b| demand(a) == demand(b)) {
        let decisions = under(further, run);
        if let Some(value) = demand(run[0]) {
            debug_assert!(decisions.len() <= i16::MAX as usize, "a jump goes no further");
            // The jump compares only the bits: see JUMP_UNLESS_EQUAL.
            program.push(instruction(JUMP_UNLESS_EQUAL, register, 0, decisions.len() as i16, value as i32));
        }
        program.extend(decisions);
    }
    program
}

fn decide(rule: &Rule) -> Vec<Instruction> {
    let access = i32::from(rule.access.bits());
    if rule.allow {
        vec![
            constant(AND, ACCESS, i32::from(Access::all().bits()) & !access),
            instruction(JUMP_UNLESS_EQUAL, ACCESS, 0, 2, 0),
            constant(SET, VERDICT, 1),
            instruction(EXIT, 0, 0, 0, 0),
        ]
    } else {
        vec![
            instruction(JUMP_IF_ANY_BIT, ACCESS, 0, 1, access),
            instruction(JUMP, 0, 0, 1, 0),
            instruction(EXIT, 0, 0, 0, 0),
        ]
    }
}

fn load(register: u8, offset: i16) -> Instruction {
    instruction(LOAD_WORD, register, CONTEXT, offset, 0)
}

fn constant(code: u8, register: u8, immediate: i32) -> Instruction {
    instruction(code, register, 0, 0, immediate)
}

fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: source << 4 | destination, offset, immediate }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::rule::{DEFAULT, allows};
    use super::*;

    /// Runs the program in an eBPF interpreter of another project.
    fn run(program: &[Instruction], kind: Kind, major: u32, minor: u32, access: Access) -> bool {
        let bytes: Vec<u8> = program.iter().flat_map(|i| i.to_bits().to_ne_bytes()).collect();
        let kind = if kind == Kind::Block { 1 } else { 2 };
        let words = [u32::from(access.bits()) << 16 | kind, major, minor];
        let mut context: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        let machine = rbpf::EbpfVmRaw::new(Some(&bytes)).unwrap();
        machine.execute_program(&mut context).unwrap() == 1
    }

    fn number() -> impl Strategy<Value = Option<u32>> {
        prop_oneof![Just(None), (0..3_u32).prop_map(Some), Just(Some(u32::MAX)), any::<u32>().prop_map(Some)]
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let kind = prop_oneof![Just(Kind::All), Just(Kind::Char), Just(Kind::Block)];
        let access = (0..8_u8).prop_map(Access::from_bits_truncate);
        (any::<bool>(), kind, number(), number(), access)
            .prop_map(|(allow, kind, major, minor, access)| Rule { allow, kind, major, minor, access })
    }

    proptest! {
        #[test]
        fn the_program_decides_as_the_rules_say(
            rules in proptest::collection::vec(rule(), 0..12),
            block in any::<bool>(),
            major in prop_oneof![0..3_u32, Just(u32::MAX)],
            minor in prop_oneof![0..3_u32, Just(u32::MAX)],
        ) {
            let program = compile(&rules);
            let kind = if block { Kind::Block } else { Kind::Char };
            for access in (0..8).map(Access::from_bits_truncate) {
                let expected = allows(&rules, kind, major, minor, access);
                prop_assert_eq!(run(&program, kind, major, minor, access), expected, "{:?}", access);
            }
        }

        #[test]
        fn a_rule_survives_being_printed_and_read(rule in rule().prop_filter("", |r| !r.access.is_empty())) {
            prop_assert_eq!(rule.to_string().parse::<Rule>().unwrap(), rule);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            let _ = text.parse::<Rule>();
        }
    }

    #[test]
    fn the_default_lets_a_shell_work_and_keeps_disks_away() {
        let rw = Access::READ | Access::WRITE;
        assert!(allows(&DEFAULT, Kind::Char, 1, 3, rw));
        assert!(allows(&DEFAULT, Kind::Char, 136, 7, rw));
        assert!(allows(&DEFAULT, Kind::Block, 8, 0, Access::MKNOD));
        assert!(!allows(&DEFAULT, Kind::Block, 8, 0, Access::READ));
        assert!(!allows(&DEFAULT, Kind::Char, 1, 1, Access::READ)); // /dev/mem
    }

    #[test]
    fn conditions_that_rules_share_are_tested_once() {
        let jumps = compile(&DEFAULT).iter().filter(|i| i.code == JUMP_UNLESS_EQUAL).count();
        // Three runs of a kind, three majors, eight minors, and one verdict for each rule.
        assert_eq!(jumps, 3 + 3 + 8 + DEFAULT.len());
    }

    #[test]
    fn a_list_longer_than_a_jump_decides_the_same() {
        let rule = |minor| Rule { minor: Some(minor), ..DEFAULT[2] };
        let compiled = |count| compile(&(0..count).map(rule).collect::<Vec<_>>());
        assert!(compiled(100_000).iter().all(|i| i.offset >= 0));
        // As many as the interpreter accepts.
        let program = compiled(5_000);
        for (minor, allowed) in [(0, true), (4_999, true), (5_000, false)] {
            assert_eq!(run(&program, Kind::Char, 1, minor, Access::READ), allowed);
        }
    }

    #[test]
    fn an_empty_list_of_rules_allows_nothing() {
        assert!(!allows(&[], Kind::Char, 1, 3, Access::READ));
        assert!(!run(&compile(&[]), Kind::Char, 1, 3, Access::READ));
    }
}
