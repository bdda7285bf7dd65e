//! An assembler for eBPF instructions, with labels and maps.
//! <https://docs.kernel.org/bpf/standardization/instruction-set.html>

use std::os::fd::AsRawFd;

use crate::device::Instruction;

/// A register. `R0` has the result of a call, `R1` to `R5` its arguments; a call clears them. `R6` to
/// `R9` survive calls. `FP` is the end of the stack of 512 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Register {
    R0,
    R1,
    R2,
    R3,
    R4,
    R6 = 6,
    R7,
    R8,
    R9,
    FP,
}

/// The size of a load or store.
#[derive(Debug, Clone, Copy)]
pub(super) enum Size {
    Word = 0x00,
    Half = 0x08,
    Byte = 0x10,
    Double = 0x18,
}

/// An operation of 64 bits on a register and a constant or register.
#[derive(Debug, Clone, Copy)]
pub(super) enum Operation {
    Add = 0x00,
    Subtract = 0x10,
    Multiply = 0x20,
    Divide = 0x30,
    Or = 0x40,
    And = 0x50,
    ShiftLeft = 0x60,
    ShiftRight = 0x70,
    ExclusiveOr = 0xa0,
    Move = 0xb0,
}

/// A condition of a jump. Comparisons are of 64 bits, and unsigned unless the name says otherwise.
#[derive(Debug, Clone, Copy)]
pub(super) enum Condition {
    Equal = 0x10,
    Greater = 0x20,
    AnyBit = 0x40,
    NotEqual = 0x50,
    /// A comparison of signed numbers.
    SignedGreater = 0x60,
}

/// The functions of the kernel that the programs call: `enum bpf_func_id`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Function {
    MapLookup = 1,
    KtimeGetNs = 5,
    SkbLoadBytes = 26,
    SkbEcnSetCe = 97,
    GetLocalStorage = 81,
    SkStorageGet = 107,
}

/// A constant or a register.
#[derive(Debug, Clone, Copy)]
pub(super) enum Operand {
    Constant(i32),
    Register(Register),
}

impl From<i32> for Operand {
    fn from(value: i32) -> Self {
        Self::Constant(value)
    }
}

impl From<Register> for Operand {
    fn from(register: Register) -> Self {
        Self::Register(register)
    }
}

/// A place in the program, before or after the jumps to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(usize);

/// A program that is being written.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    code: Vec<Instruction>,
    /// The index of the instruction at each label.
    labels: Vec<usize>,
    /// The jumps to labels: index of the jump, and label.
    jumps: Vec<(usize, Label)>,
}

const IMMEDIATE_DOUBLE: u8 = 0x18;
const LOAD: u8 = 0x61;
const STORE_CONSTANT: u8 = 0x62;
const STORE: u8 = 0x63;
const ATOMIC_DOUBLE: u8 = 0xdb;
const ALU: u8 = 0x07;
const MOVE_WORD: u8 = 0xb4;
const JUMP: u8 = 0x05;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// The operand is a register.
const REGISTER: u8 = 0x08;
const ATOMIC_ADD: i32 = 0;
/// Since Linux 5.12.
const ATOMIC_FETCH_ADD: i32 = 0x01;
/// Since Linux 5.12.
const ATOMIC_COMPARE_EXCHANGE: i32 = 0xf1;
const MAP_FD: u8 = 1;
const MAP_VALUE: u8 = 2;

impl Assembler {
    /// Returns the bytes of each `struct bpf_insn` as one number.
    pub(super) fn finish(mut self) -> Vec<u64> {
        for (at, Label(label)) in self.jumps {
            self.code[at].offset = (self.labels[label] as isize - at as isize - 1) as i16;
        }
        self.code.into_iter().map(Instruction::to_bits).collect()
    }

    /// Returns a label that is not yet at an instruction.
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(usize::MAX);
        Label(self.labels.len() - 1)
    }

    /// Puts the label at the next instruction.
    pub(super) fn place(&mut self, Label(label): Label) {
        self.labels[label] = self.code.len();
    }

    /// Returns whether a jump leads to the label. The kernel refuses code that nothing reaches.
    pub(super) fn is_used(&self, label: Label) -> bool {
        self.jumps.iter().any(|(_, to)| *to == label)
    }

    pub(super) fn load(&mut self, size: Size, to: Register, base: Register, offset: i16) {
        self.push(LOAD | size as u8, to as u8, base as u8, offset, 0);
    }

    pub(super) fn store(&mut self, size: Size, base: Register, offset: i16, value: impl Into<Operand>) {
        match value.into() {
            Operand::Constant(value) => self.push(STORE_CONSTANT | size as u8, base as u8, 0, offset, value),
            Operand::Register(from) => self.push(STORE | size as u8, base as u8, from as u8, offset, 0),
        }
    }

    pub(super) fn alu(&mut self, operation: Operation, to: Register, operand: impl Into<Operand>) {
        match operand.into() {
            Operand::Constant(value) => self.push(ALU | operation as u8, to as u8, 0, 0, value),
            Operand::Register(from) => {
                self.push(ALU | REGISTER | operation as u8, to as u8, from as u8, 0, 0)
            }
        }
    }

    pub(super) fn set(&mut self, to: Register, value: impl Into<Operand>) {
        self.alu(Operation::Move, to, value);
    }

    /// Sets a register to a word, with zeros above it.
    pub(super) fn set_word(&mut self, to: Register, value: u32) {
        self.push(MOVE_WORD, to as u8, 0, 0, value as i32);
    }

    /// Sets a register to 64 bits.
    pub(super) fn set_double(&mut self, to: Register, value: u64) {
        self.push(IMMEDIATE_DOUBLE, to as u8, 0, 0, value as i32);
        self.push(0, 0, 0, 0, (value >> 32) as i32);
    }

    pub(super) fn jump(&mut self, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(JUMP, 0, 0, 0, 0);
    }

    pub(super) fn jump_if(&mut self, condition: Condition, a: Register, b: impl Into<Operand>, to: Label) {
        self.jumps.push((self.code.len(), to));
        match b.into() {
            Operand::Constant(value) => self.push(JUMP | condition as u8, a as u8, 0, 0, value),
            Operand::Register(b) => self.push(JUMP | REGISTER | condition as u8, a as u8, b as u8, 0, 0),
        }
    }

    pub(super) fn call(&mut self, function: Function) {
        self.push(CALL, 0, 0, 0, function as i32);
    }

    pub(super) fn exit(&mut self) {
        self.push(EXIT, 0, 0, 0, 0);
    }

    /// Sets a register to a map, for a call.
    pub(super) fn map(&mut self, to: Register, map: &impl AsRawFd) {
        self.push(IMMEDIATE_DOUBLE, to as u8, MAP_FD, 0, map.as_raw_fd());
        self.push(0, 0, 0, 0, 0);
    }

    /// Sets a register to the address of the only value of an array.
    pub(super) fn map_value(&mut self, to: Register, map: &impl AsRawFd) {
        self.push(IMMEDIATE_DOUBLE, to as u8, MAP_VALUE, 0, map.as_raw_fd());
        self.push(0, 0, 0, 0, 0);
    }

    /// Adds a register to a value of 64 bits in memory.
    pub(super) fn atomic_add(&mut self, base: Register, offset: i16, value: Register) {
        self.push(ATOMIC_DOUBLE, base as u8, value as u8, offset, ATOMIC_ADD);
    }

    /// Adds a register to a value of 64 bits in memory, and loads the value that was there to the register.
    pub(super) fn fetch_add(&mut self, base: Register, offset: i16, value: Register) {
        self.push(ATOMIC_DOUBLE, base as u8, value as u8, offset, ATOMIC_FETCH_ADD);
    }

    /// Stores a register to 64 bits of memory if `R0` is the value there. Loads the value that was
    /// there to `R0`.
    pub(super) fn compare_exchange(&mut self, base: Register, offset: i16, value: Register) {
        self.push(ATOMIC_DOUBLE, base as u8, value as u8, offset, ATOMIC_COMPARE_EXCHANGE);
    }

    fn push(&mut self, code: u8, destination: u8, source: u8, offset: i16, immediate: i32) {
        self.code.push(Instruction { code, registers: source << 4 | destination, offset, immediate });
    }
}
