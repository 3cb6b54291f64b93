//! Writes filters of system calls for the kernel's classic BPF machine.

use std::collections::BTreeMap;

use super::{super::sys::Instruction, table::Call};

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Where `seccomp_data` has its fields.
const NUMBER_OFFSET: u32 = 0;
const ARCHITECTURE_OFFSET: u32 = 4;
const ARGUMENTS_OFFSET: u32 = 16;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sandbox) enum Action {
    /// It is made.
    Allow,
    /// It fails with this error number.
    Errno(i32),
    /// It is announced on the filter's listener, which answers it.
    Notify,
    /// The process is killed.
    KillProcess,
}

impl Action {
    fn value(self) -> u32 {
        match self {
            Self::Allow => libc::SECCOMP_RET_ALLOW,
            Self::Errno(errno) => libc::SECCOMP_RET_ERRNO | (errno.cast_unsigned() & 0xffff),
            Self::Notify => libc::SECCOMP_RET_USER_NOTIF,
            Self::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        }
    }
}

/// A set of system call numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sandbox) enum Architecture {
    /// 64-bit x86.
    X86_64,
    /// 32-bit x86, on 64-bit x86.
    I386,
    /// 64-bit ARM.
    Aarch64,
}

/// Numbers of the calls whose arguments matter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Special {
    pub(super) socket: u32,
    pub(super) personality: u32,
    pub(super) clone: u32,
    pub(super) clone3: u32,
}

impl Architecture {
    /// Those that programs on this machine can use.
    pub(in crate::sandbox) const fn native_and_compatible() -> &'static [Self] {
        if cfg!(target_arch = "x86_64") {
            &[Self::X86_64, Self::I386]
        } else {
            &[Self::Aarch64]
        }
    }

    /// The one of [`native_and_compatible`](Self::native_and_compatible) that has this token.
    pub(in crate::sandbox) fn from_token(token: u32) -> Option<Self> {
        let mut known = Self::native_and_compatible().iter().copied();
        known.find(|known| known.token() == token)
    }

    /// Its place in rows of numbers: 64-bit x86, 64-bit ARM, 32-bit x86.
    pub(in crate::sandbox) const fn column(self) -> usize {
        match self {
            Self::X86_64 => 0,
            Self::Aarch64 => 1,
            Self::I386 => 2,
        }
    }

    /// `AUDIT_ARCH_…`
    pub(in crate::sandbox) fn token(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::I386 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
        }
    }

    /// The number of `call`; negative when there is none.
    pub(super) fn number(self, call: &Call) -> i32 {
        match self {
            Self::X86_64 => call.x86_64,
            Self::I386 => call.i386,
            Self::Aarch64 => call.aarch64,
        }
    }

    pub(super) fn special(self) -> Special {
        let (socket, personality, clone) = match self {
            Self::X86_64 => (41, 135, 56),
            Self::I386 => (359, 136, 120),
            Self::Aarch64 => (198, 92, 220),
        };
        Special {
            socket,
            personality,
            clone,
            clone3: 435,
        }
    }
}

/// The verdicts for the calls of one architecture.
#[derive(Debug)]
pub(in crate::sandbox) struct Section {
    allowed: Vec<u32>,
    special: BTreeMap<u32, Vec<Instruction>>,
    default: Action,
}

impl Section {
    /// `default` for every call that nothing else is said of.
    pub(in crate::sandbox) fn new(default: Action) -> Self {
        Self {
            allowed: Vec::new(),
            special: BTreeMap::new(),
            default,
        }
    }

    /// Allows the call `number`.
    pub(in crate::sandbox) fn allow(&mut self, number: u32) {
        self.allowed.push(number);
    }

    /// Gives the call `number` the verdict `action`.
    pub(in crate::sandbox) fn answer(&mut self, number: u32, action: Action) {
        self.rule(number, vec![ret(action)]);
    }

    /// Allows the call `number` unless the lower half of its argument `index` is one of `values`.
    pub(super) fn when_argument_not_in(&mut self, number: u32, index: u32, values: &[u32]) {
        let test = compare_all(index, values, Action::Errno(libc::EPERM), Action::Allow);
        self.rule(number, test);
    }

    /// Allows the call `number` if the lower half of its argument `index` is one of `values`.
    pub(super) fn when_argument_in(&mut self, number: u32, index: u32, values: &[u32]) {
        let test = compare_all(index, values, Action::Allow, Action::Errno(libc::EPERM));
        self.rule(number, test);
    }

    /// Allows the call `number` if its argument `index` has none of the bits `mask`.
    pub(super) fn when_argument_lacks(&mut self, number: u32, index: u32, mask: u32) {
        let test = vec![
            load(ARGUMENTS_OFFSET + 8 * index),
            step(AND, mask),
            jump(JUMP_EQUAL, 0, 0, 1),
            ret(Action::Allow),
            ret(Action::Errno(libc::EPERM)),
        ];
        self.rule(number, test);
    }

    /// Allows the call `number` if its argument `index` has one of the bits `mask`; announces it otherwise.
    pub(in crate::sandbox) fn notify_when_argument_lacks(
        &mut self,
        number: u32,
        index: u32,
        mask: u32,
    ) {
        self.judge_bits(number, index, mask, [Action::Allow, Action::Notify]);
    }

    /// Announces the call `number` if its argument `index` has one of the bits `mask`; allows it otherwise.
    pub(in crate::sandbox) fn notify_when_argument_has(
        &mut self,
        number: u32,
        index: u32,
        mask: u32,
    ) {
        self.judge_bits(number, index, mask, [Action::Notify, Action::Allow]);
    }

    fn judge_bits(&mut self, number: u32, index: u32, mask: u32, [has, lacks]: [Action; 2]) {
        let test = vec![
            load(ARGUMENTS_OFFSET + 8 * index),
            step(AND, mask),
            jump(JUMP_EQUAL, 0, 0, 1),
            ret(lacks),
            ret(has),
        ];
        self.rule(number, test);
    }

    /// Gives the call `number` the verdict `hit` if the lower half of its argument `index` is one of `values`, else `miss`.
    pub(in crate::sandbox) fn judge_argument(
        &mut self,
        number: u32,
        index: u32,
        values: &[u32],
        [hit, miss]: [Action; 2],
    ) {
        self.rule(number, compare_all(index, values, hit, miss));
    }

    /// Gives the call `number` the verdict `hit` if the lower half of its argument `index` is `value`; else judges it by another argument,
    /// as [`Section::judge_argument`] does.
    pub(in crate::sandbox) fn judge_arguments(
        &mut self,
        number: u32,
        (index, value, hit): (u32, u32, Action),
        (other, values, verdicts): (u32, &[u32], [Action; 2]),
    ) {
        let mut test = vec![
            load(ARGUMENTS_OFFSET + 8 * index),
            jump(JUMP_EQUAL, value, 0, 1),
            ret(hit),
        ];
        test.extend(compare_all(other, values, verdicts[0], verdicts[1]));
        self.rule(number, test);
    }

    /// Runs `body`, which ends in a verdict, for the call `number`; of several the first.
    fn rule(&mut self, number: u32, body: Vec<Instruction>) {
        self.special.entry(number).or_insert(body);
    }

    /// What becomes of all numbers: of those from the one named on, up to the next one.
    fn ranges(&self) -> Vec<(u32, Vec<Instruction>)> {
        let verdict = |action| vec![ret(action)];
        let mut numbers = self.allowed.clone();
        numbers.extend(self.special.keys());
        numbers.sort_unstable();
        numbers.dedup();
        let mut ranges: Vec<(u32, Vec<Instruction>)> = Vec::new();
        let mut add = |start: u32, code: Vec<Instruction>| {
            if ranges.last().is_none_or(|(_, last)| *last != code) {
                ranges.push((start, code));
            }
        };
        // The first number that nothing has been said of yet.
        let mut next = Some(0);
        for number in numbers {
            if let Some(start) = next.filter(|next| *next != number) {
                add(start, verdict(self.default));
            }
            let special = self.special.get(&number).cloned();
            add(number, special.unwrap_or_else(|| verdict(Action::Allow)));
            next = number.checked_add(1);
        }
        if let Some(start) = next {
            add(start, verdict(self.default));
        }
        ranges
    }

    fn code(&self) -> Vec<Instruction> {
        let mut code = vec![load(NUMBER_OFFSET)];
        code.extend(search(&self.ranges()));
        code
    }
}

/// Finds the range of the number that is loaded by halving them: the kernel runs a new filter for each number there is, to
/// remember what is allowed whatever its arguments.
fn search(ranges: &[(u32, Vec<Instruction>)]) -> Vec<Instruction> {
    if let [(_, only)] = ranges {
        return only.clone();
    }
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let from = upper.first().map_or(u32::MAX, |(start, _)| *start);
    let below = search(lower);
    let mut code = match u8::try_from(below.len()) {
        Ok(length) => vec![jump(JUMP_GREATER_OR_EQUAL, from, length, 0)],
        Err(_) => vec![
            jump(JUMP_GREATER_OR_EQUAL, from, 0, 1),
            step(JUMP, length(&below)),
        ],
    };
    code.extend(below);
    code.extend(search(upper));
    code
}

fn length(code: &[Instruction]) -> u32 {
    u32::try_from(code.len()).expect("a filter is far shorter than that")
}

/// A filter with a section for each architecture; calls of others get the verdict `unknown`.
pub(in crate::sandbox) fn program(
    sections: &[(Architecture, Section)],
    unknown: Action,
) -> Vec<Instruction> {
    let mut code = vec![load(ARCHITECTURE_OFFSET)];
    for (architecture, section) in sections {
        let body = section.code();
        code.push(jump(JUMP_EQUAL, architecture.token(), 1, 0));
        code.push(step(JUMP, length(&body)));
        code.extend(body);
    }
    code.push(ret(unknown));
    code
}

/// The same filter, with which every call passes whose last argument is `pass`.
pub(in crate::sandbox) fn with_pass(
    architecture: Architecture,
    pass: u64,
    filter: Vec<Instruction>,
) -> Vec<Instruction> {
    const LAST: u32 = ARGUMENTS_OFFSET + 8 * 5;
    let [low, high] = [pass & 0xffff_ffff, pass >> 32]
        .map(|half| u32::try_from(half).expect("half of a number of 64 bits"));
    // All machines that steps run on are little-endian.
    let mut code = vec![
        load(ARCHITECTURE_OFFSET),
        jump(JUMP_EQUAL, architecture.token(), 0, 5),
        load(LAST),
        jump(JUMP_EQUAL, low, 0, 3),
        load(LAST + 4),
        jump(JUMP_EQUAL, high, 0, 1),
        ret(Action::Allow),
    ];
    code.extend(filter);
    code
}

fn compare_all(index: u32, values: &[u32], hit: Action, miss: Action) -> Vec<Instruction> {
    let mut code = vec![load(ARGUMENTS_OFFSET + 8 * index)];
    for value in values {
        code.push(jump(JUMP_EQUAL, *value, 0, 1));
        code.push(ret(hit));
    }
    code.push(ret(miss));
    code
}

fn load(offset: u32) -> Instruction {
    step(LOAD, offset)
}

fn ret(action: Action) -> Instruction {
    step(RETURN, action.value())
}

fn step(code: u16, k: u32) -> Instruction {
    jump(code, k, 0, 0)
}

fn jump(code: u16, k: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction {
        code,
        jump_true,
        jump_false,
        k,
    }
}

/// Runs a filter as the kernel would, with `argument` as the lower half of every argument.
#[cfg(test)]
pub(in crate::sandbox) fn evaluate(
    filter: &[Instruction],
    architecture: u32,
    number: u32,
    argument: u32,
) -> u32 {
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let i = filter[at];
        at += 1;
        let taken = |holds: bool| usize::from(if holds { i.jump_true } else { i.jump_false });
        match i.code {
            LOAD => {
                accumulator = match i.k {
                    NUMBER_OFFSET => number,
                    ARCHITECTURE_OFFSET => architecture,
                    _ => argument,
                }
            }
            AND => accumulator &= i.k,
            JUMP => at += usize::try_from(i.k).unwrap(),
            JUMP_EQUAL => at += taken(accumulator == i.k),
            JUMP_GREATER_OR_EQUAL => at += taken(accumulator >= i.k),
            RETURN => return i.k,
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}
