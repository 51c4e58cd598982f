//! The instruction trace: every vCPU single-stepped, and where it stands written down.

use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where the steps of all vCPUs are written, while there is a trace.
#[derive(Default)]
pub(super) struct Steps(Mutex<Option<Trace>>);

struct Trace {
    sink: Box<dyn Write + Send>,
    /// How many more lines are wanted.
    left: u64,
}

impl Steps {
    /// Begins a trace of at most `limit` lines. One that is under way ends with what it has.
    pub(super) fn begin(&self, limit: u64, sink: Box<dyn Write + Send>) {
        drop(self.lock().replace(Trace { sink, left: limit }));
    }

    /// Ends the trace, and sees to it that all of it is in its sink.
    pub(super) fn end(&self) {
        if let Some(mut trace) = self.lock().take() {
            let _whoever_reads_it_sees_it_end = trace.sink.flush();
        }
    }

    /// Notes that vCPU `cpu` is about to carry out the instruction at `rip`; tells whether more is wanted. A sink that
    /// takes no more ends the trace, and nothing else.
    pub(super) fn note(&self, cpu: u32, rip: u64) -> bool {
        let mut slot = self.lock();
        let Some(trace) = slot.as_mut() else { return false };
        trace.left = trace.left.saturating_sub(1);
        let written = writeln!(trace.sink, "{cpu} {rip:016x}").is_ok();
        let more = written && trace.left > 0;
        if !more {
            let _whoever_reads_it_sees_it_end = trace.sink.flush();
            *slot = None;
        }
        more
    }

    fn lock(&self) -> MutexGuard<'_, Option<Trace>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            self.0.lock().unwrap().extend_from_slice(b"end");
            Ok(())
        }
    }

    fn text(sink: &Sink) -> String {
        String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn trace_ends_at_its_limit_with_all_of_it_written() {
        let (steps, sink) = (Steps::default(), Sink::default());
        assert!(!steps.note(0, 1), "there is no trace");
        steps.begin(2, Box::new(sink.clone()));
        assert_eq!([steps.note(0, 0x10_0000), steps.note(1, 2), steps.note(0, 3)], [true, false, false]);
        assert_eq!(text(&sink), "0 0000000000100000\n1 0000000000000002\nend");
    }

    #[test]
    fn trace_ends_when_its_sink_takes_no_more() {
        let steps = Steps::default();
        steps.begin(10, Box::new(io::Cursor::new([0u8; 5])));
        assert!(!steps.note(0, 1));
    }
}
