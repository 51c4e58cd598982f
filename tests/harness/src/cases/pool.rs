//! Cases run side by side, as many as there are threads and memory for, their results taken in the order of the list.

use std::collections::VecDeque;
use std::fs;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use super::attempt::End;

/// A case to run.
type Job = Box<dyn FnOnce() -> End + Send>;

/// What a machine takes beside its guest's memory, in MiB.
const MACHINE: u64 = 32;

/// Cases that are to run.
#[derive(Default)]
pub(super) struct Pool {
    queue: VecDeque<Queued>,
}

struct Queued {
    job: Job,
    /// MiB.
    memory: u64,
    result: mpsc::Sender<End>,
}

impl Pool {
    /// Adds a case whose guest has `memory` MiB, if it has one; its result comes from what is returned.
    pub(super) fn add(
        &mut self,
        memory: Option<u64>,
        job: impl FnOnce() -> End + Send + 'static,
    ) -> mpsc::Receiver<End> {
        let (result, receiver) = mpsc::channel();
        let memory = memory.map_or(0, |memory| memory.saturating_add(MACHINE));
        self.queue.push_back(Queued { job: Box::new(job), memory, result });
        receiver
    }

    /// Runs them on `threads`, in their order, while `reader` reads the results.
    pub(super) fn run<R>(self, threads: usize, reader: impl FnOnce() -> R) -> R {
        let queue = Mutex::new(self.queue);
        let room = Room::new(available());
        thread::scope(|scope| {
            let count = lock(&queue).len();
            for _ in 0..threads.min(count) {
                scope.spawn(|| {
                    loop {
                        let Some(Queued { job, memory, result }) = lock(&queue).pop_front() else { break };
                        let _taken = room.take(memory);
                        // One whose result nobody reads any more has run all the same.
                        let _unread = result.send(job());
                    }
                });
            }
            reader()
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Three quarters of the host's memory that is to be had, in MiB.
fn available() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: Option<u64> = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    kib.map_or(u64::MAX, |kib| kib / 1024 / 4 * 3)
}

/// Memory that is given out and comes back.
struct Room {
    total: u64,
    used: Mutex<u64>,
    freed: Condvar,
}

impl Room {
    fn new(total: u64) -> Self {
        Self { total, used: Mutex::new(0), freed: Condvar::new() }
    }

    /// Waits until there is room for `amount`; what is larger than all of it has it to itself.
    fn take(&self, amount: u64) -> Taken<'_> {
        let mut used = lock(&self.used);
        while *used > 0 && used.saturating_add(amount) > self.total {
            used = self.freed.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        *used = used.saturating_add(amount);
        Taken { room: self, amount }
    }
}

/// Gives back what was taken.
struct Taken<'a> {
    room: &'a Room,
    amount: u64,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut used = lock(&self.room.used);
        *used = used.saturating_sub(self.amount);
        self.room.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_list_whoever_is_done_first() {
        let mut pool = Pool::default();
        // The first ends only when the second has.
        let (done, wait) = mpsc::channel();
        let results = [
            pool.add(None, move || End::Failed(wait.recv().unwrap())),
            pool.add(None, move || {
                done.send("first".to_owned()).unwrap();
                End::Skipped("second".to_owned())
            }),
        ];
        let read = pool.run(2, || results.map(|result| result.recv().unwrap()));
        assert_eq!(read, [End::Failed("first".to_owned()), End::Skipped("second".to_owned())]);
    }

    #[test]
    fn no_more_memory_is_given_out_than_there_is() {
        let (room, most, now) = (Room::new(100), AtomicUsize::new(0), AtomicUsize::new(0));
        let (room, most, now) = (Arc::new(room), Arc::new(most), Arc::new(now));
        let threads: Vec<_> = [60, 60, 40, 500, 40, 60]
            .map(|amount| {
                let (room, most, now) = (room.clone(), most.clone(), now.clone());
                thread::spawn(move || {
                    let _taken = room.take(amount);
                    let weight = usize::try_from(amount.min(100)).unwrap();
                    most.fetch_max(now.fetch_add(weight, Ordering::SeqCst) + weight, Ordering::SeqCst);
                    thread::yield_now();
                    now.fetch_sub(weight, Ordering::SeqCst);
                })
            })
            .into();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(most.load(Ordering::SeqCst) <= 100);
    }
}
