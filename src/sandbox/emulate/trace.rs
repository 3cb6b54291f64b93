//! Calls that only a thread itself can make, made by it in place of the one that it has asked for.
//!
//! A thread that waits for an answer is traced for a moment: it is asked to stop, its call is answered, and before it comes back
//! from the kernel it stops. There its registers are changed so that it makes other calls, which carry a number that the filter lets pass
//! and that nobody in the step gets to know. Then it goes on as if its own call had had this result. All signals wait meanwhile.
//!
//! Programs are not traced otherwise: signals, stops and exits are none of our business.

use std::os::fd::BorrowedFd;

use rustix::{
    io::Errno,
    process::{self, Pid, Signal},
};

use super::{
    super::supervisor::{
        sys::{self as notify, Answer},
        tracee::Tracee,
    },
    stack,
    sys::{self, Registers, Stop, number},
};

/// A thread that makes calls for us.
#[derive(Debug)]
pub(super) struct Session {
    thread: i32,
    process: i32,
    saved: Registers,
    blocked: u64,
    pass: u64,
}

/// What became of the attempt to start a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Started {
    Yes,
    /// It failed with this result.
    No(i64),
}

impl Session {
    /// Makes the thread stop that waits for the answer to the call `id`. When this fails the call has not been answered, but for
    /// `SRCH`: then there is nobody who would want an answer.
    pub(super) fn begin(
        listener: BorrowedFd<'_>,
        (caller, id): (&Tracee, u64),
        pass: u64,
    ) -> Result<Self, Errno> {
        let thread = i32::try_from(caller.thread()).map_err(|_odd| Errno::SRCH)?;
        let process = caller.process().ok_or(Errno::SRCH)?;
        sys::seize(thread)?;
        sys::interrupt(thread)?;
        if notify::send(listener, id, Answer::Value(0)).is_err() {
            // Its call is over, by a signal; or it is gone, and this is another thread that has its number by now.
            let stop = Self::first_stop(thread);
            return Err(match stop.and_then(|()| sys::detach(thread)) {
                Ok(()) | Err(Errno::SRCH) => Errno::SRCH,
                Err(error) => error,
            });
        }
        Self::first_stop(thread)?;
        let session = Self {
            thread,
            process,
            saved: sys::registers(thread)?,
            blocked: sys::blocked(thread)?,
            pass,
        };
        sys::block(thread, u64::MAX)?;
        Ok(session)
    }

    /// Waits until a thread that was asked to stop has done so.
    fn first_stop(thread: i32) -> Result<(), Errno> {
        loop {
            match sys::wait(thread, true)? {
                Some(Stop::Asked) => return Ok(()),
                Some(Stop::Gone) => return Err(Errno::SRCH),
                Some(Stop::Signal(signal)) => sys::go_on(thread, signal)?,
                Some(Stop::Call | Stop::Exec) => sys::go_on(thread, 0)?,
                None => {}
            }
        }
    }

    /// Waits for the beginning or the end of a call.
    fn next(&self, number: i64) -> Result<Stop, Errno> {
        loop {
            // Only a new program makes a thread the first of its process.
            let stop = if self.thread == self.process || number != number::EXECVEAT {
                sys::wait(self.thread, true)?
            } else {
                self.next_of_either()?
            };
            match stop {
                None => {}
                // The process stops as a whole, which it does when we have let go.
                Some(Stop::Asked) => sys::go_on(self.thread, 0)?,
                Some(Stop::Signal(signal)) => sys::go_on(self.thread, signal)?,
                Some(Stop::Gone) => return Err(Errno::SRCH),
                Some(stop) => return Ok(stop),
            }
        }
    }

    /// What comes of a thread that is not the first of its process, whose number it takes when it becomes another program.
    fn next_of_either(&self) -> Result<Option<Stop>, Errno> {
        let own = match sys::wait(self.thread, false) {
            Ok(Some(stop)) => return Ok(Some(stop)),
            other => other,
        };
        match (own, sys::wait(self.process, false)) {
            (_, Ok(Some(stop))) => return Ok(Some(stop)),
            (Err(Errno::CHILD), Err(Errno::CHILD)) => return Err(Errno::SRCH),
            _ => {}
        }
        std::thread::sleep(std::time::Duration::from_micros(100));
        Ok(None)
    }

    fn passing(&self, arguments: [u64; 5]) -> [u64; 6] {
        let mut all = [self.pass; 6];
        all[..5].copy_from_slice(&arguments);
        all
    }

    fn make(&self, number: i64, arguments: [u64; 6]) -> Result<Stop, Errno> {
        sys::set_registers(self.thread, &self.saved.calling(number, arguments))?;
        sys::go_on(self.thread, 0)?;
        self.next(number)?;
        sys::go_on(self.thread, 0)?;
        self.next(number)
    }

    /// Makes a call, with at most five arguments; gives its result.
    pub(super) fn call(&self, number: i64, arguments: [u64; 5]) -> Result<i64, Errno> {
        self.make(number, self.passing(arguments))?;
        Ok(sys::registers(self.thread)?.result())
    }

    /// Puts bytes into new memory of the process, does something with their address and takes the memory away again.
    pub(super) fn with_memory(
        &self,
        bytes: &[u8],
        work: impl FnOnce(&Self, u64) -> Result<i64, Errno>,
    ) -> Result<i64, Errno> {
        let address = match self.map(bytes)? {
            Ok(address) => address,
            Err(result) => return Ok(result),
        };
        let result = work(self, address);
        self.unmap(address, bytes)?;
        result
    }

    /// New memory of the process with these bytes: its address, or the result of the call that has failed.
    fn map(&self, bytes: &[u8]) -> Result<Result<u64, i64>, Errno> {
        let protection = u64::from((libc::PROT_READ | libc::PROT_WRITE).cast_unsigned());
        let flags = u64::from((libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).cast_unsigned());
        let length = bytes.len() as u64;
        // Its six arguments leave no room for the pass, which it does not need.
        self.make(number::MMAP, [0, length, protection, flags, u64::MAX, 0])?;
        let address = sys::registers(self.thread)?.result();
        if (-4095..0).contains(&address) {
            return Ok(Err(address));
        }
        let address = address.cast_unsigned();
        if let Err(error) = self.write(address, bytes) {
            self.unmap(address, bytes)?;
            return Ok(Err(-i64::from(error.raw_os_error())));
        }
        Ok(Ok(address))
    }

    fn unmap(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        let length = bytes.len() as u64;
        self.call(number::MUNMAP, [address, length, 0, 0, 0])
            .map(drop)
    }

    /// Writes to the memory of the process.
    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        Tracee::of(self.number()).write(address, bytes)
    }

    fn number(&self) -> u32 {
        self.process.cast_unsigned()
    }

    /// Starts a program.
    pub(super) fn exec(&self, arguments: [u64; 5]) -> Result<Started, Errno> {
        let stop = self.make(number::EXECVEAT, self.passing(arguments))?;
        Ok(match stop {
            Stop::Exec => Started::Yes,
            _ => Started::No(sys::registers(self.thread)?.result()),
        })
    }

    /// Starts the program at a path of the host, which lies in memory of the process for that. A process that shares its memory with
    /// another one (`vfork`) leaves it there.
    pub(super) fn exec_path(&self, path: &[u8], [argv, envp]: [u64; 2]) -> Result<Started, Errno> {
        let address = match self.map(path)? {
            Ok(address) => address,
            Err(result) => return Ok(Started::No(result)),
        };
        let here = i64::from(libc::AT_FDCWD).cast_unsigned();
        let started = self.exec([here, address, argv, envp, 0])?;
        if started != Started::Yes {
            self.unmap(address, path)?;
        }
        Ok(started)
    }

    /// Lets the new program go, with `front` instead of its first argument unless that is empty.
    pub(super) fn release(self, front: &[std::ffi::OsString]) -> Result<(), Errno> {
        let released = self.try_release(front);
        if released.is_err() {
            // There is no way back to the old program, and it would wait for ever.
            self.kill()?;
        }
        released
    }

    fn try_release(&self, front: &[std::ffi::OsString]) -> Result<(), Errno> {
        let process = self.process;
        if !front.is_empty() {
            let program = Tracee::of(self.number());
            let registers = sys::registers(process)?;
            let words = read_stack(&program, registers.stack())?;
            let new =
                stack::with_arguments(registers.stack(), &words, front).ok_or(Errno::TOOBIG)?;
            program.write(new.pointer, &new.bytes)?;
            sys::set_registers(process, &registers.with_stack(new.pointer))?;
        }
        sys::block(process, self.blocked)?;
        sys::detach(process)
    }

    /// Kills the process.
    pub(super) fn kill(self) -> Result<(), Errno> {
        let process = Pid::from_raw(self.process).ok_or(Errno::SRCH)?;
        process::kill_process(process, Signal::KILL)
    }

    /// Lets the thread go on as if its call had had this result.
    pub(super) fn end(self, result: i64) -> Result<(), Errno> {
        sys::set_registers(self.thread, &self.saved.returning(result))?;
        sys::block(self.thread, self.blocked)?;
        sys::detach(self.thread)
    }
}

/// The words at the end of a new program's stack.
fn read_stack(program: &Tracee, pointer: u64) -> Result<Vec<u64>, Errno> {
    /// More words than there are in the arguments and variables of nearly all programs.
    const FIRST: usize = 512;
    const MOST: usize = 1 << 21;
    let mut count = FIRST;
    loop {
        let bytes = program.read_up_to(pointer, 8 * count)?;
        let words: Vec<u64> = bytes
            .chunks_exact(8)
            .map(|word| u64::from_ne_bytes(std::array::from_fn(|i| word[i])))
            .collect();
        if stack::extent(&words).is_some() {
            return Ok(words);
        }
        if words.len() < count || count >= MOST {
            return Err(Errno::TOOBIG);
        }
        count *= 4;
    }
}
