//! The event loop: one thread that waits for descriptors, timers and deferred work, for all that needs no thread of its own.
//!
//! What is called here must not take time: who has something that may (a request to a vCPU, a file) does it on a thread and
//! has the result put into a [`Mailbox`]. Timers are `timerfd`s, signals a pipe: the loop knows descriptors only. It serves
//! the control socket, and `kiln-vmm`'s signals; nothing on the way of an exit ever waits for it.

mod mailbox;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use event_manager::{EventManager, RemoteEndpoint, SubscriberOps};
pub use event_manager::{EventOps, Events, MutEventSubscriber};
pub use mailbox::{Mailbox, Post, mailbox};

/// One that is called when a descriptor of its own is ready.
pub type Source = Box<dyn MutEventSubscriber + Send>;

/// The loop's thread; dropping it ends it, and with it all of its sources.
pub struct EventLoop {
    endpoint: RemoteEndpoint<Source>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for EventLoop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventLoop").finish_non_exhaustive()
    }
}

impl EventLoop {
    /// Starts the thread.
    ///
    /// # Errors
    /// The host has no room for a thread or its descriptors.
    pub fn start() -> io::Result<Self> {
        let mut manager = EventManager::<Source>::new().map_err(io::Error::other)?;
        let endpoint = manager.remote_endpoint();
        let over = Arc::new(AtomicBool::new(false));
        let flag = over.clone();
        let thread = crate::thread::named("events").spawn(move || {
            while !flag.load(Ordering::Acquire) {
                if manager.run().is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { endpoint, over, thread: Some(thread) })
    }

    /// Adds a source, which says in its `init` what it waits for. Not for sources themselves to call.
    ///
    /// # Errors
    /// The loop has ended.
    pub fn add(&self, source: Source) -> io::Result<()> {
        let added = self.endpoint.call_blocking(
            move |manager: &mut dyn SubscriberOps<Subscriber = Source>| -> Result<_, event_manager::Error> {
                Ok(manager.add_subscriber(source))
            },
        );
        added.map(drop).map_err(io::Error::other)
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        let _ended_already = self.endpoint.kick();
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;
    use std::time::Duration;

    use event_manager::EventSet;
    use vmm_sys_util::timerfd::TimerFd;

    use super::*;

    /// Far more than any of these takes.
    const LIMIT: Duration = Duration::from_secs(60);

    /// Tells of each byte that comes.
    struct Bytes(UnixStream, mpsc::Sender<u8>);

    impl MutEventSubscriber for Bytes {
        fn init(&mut self, ops: &mut EventOps<'_>) {
            ops.add(Events::new(&self.0, EventSet::IN)).unwrap();
        }

        fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
            let mut byte = [0];
            match self.0.read(&mut byte) {
                Ok(1..) => self.1.send(byte[0]).unwrap(),
                _ => ops.remove(events).unwrap(),
            }
        }
    }

    /// Tells when its time has come.
    struct Alarm(TimerFd, mpsc::Sender<u8>);

    impl MutEventSubscriber for Alarm {
        fn init(&mut self, ops: &mut EventOps<'_>) {
            self.0.reset(Duration::from_millis(1), None).unwrap();
            ops.add(Events::new(&self.0, EventSet::IN)).unwrap();
        }

        fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
            self.0.wait().unwrap();
            self.1.send(b'!').unwrap();
        }
    }

    /// Tells of deferred work.
    struct Letters(Mailbox<u8>, mpsc::Sender<u8>);

    impl MutEventSubscriber for Letters {
        fn init(&mut self, ops: &mut EventOps<'_>) {
            ops.add(Events::new(&self.0, EventSet::IN)).unwrap();
        }

        fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
            for letter in self.0.take() {
                self.1.send(letter).unwrap();
            }
        }
    }

    #[test]
    fn descriptors_timers_and_deferred_work_are_served() {
        let (told, heard) = mpsc::channel();
        let events = EventLoop::start().unwrap();
        let (mut near, far) = UnixStream::pair().unwrap();
        events.add(Box::new(Bytes(far, told.clone()))).unwrap();
        near.write_all(b"a").unwrap();
        assert_eq!(heard.recv_timeout(LIMIT), Ok(b'a'));
        events.add(Box::new(Alarm(TimerFd::new().unwrap(), told.clone()))).unwrap();
        assert_eq!(heard.recv_timeout(LIMIT), Ok(b'!'));
        let (post, letters) = mailbox().unwrap();
        events.add(Box::new(Letters(letters, told))).unwrap();
        std::thread::spawn(move || (b'b'..=b'd').for_each(|letter| post.send(letter))).join().unwrap();
        assert_eq!([(); 3].map(|()| heard.recv_timeout(LIMIT).unwrap()), *b"bcd");
        drop(events);
        // Its sources went with it.
        assert!(heard.recv_timeout(LIMIT).is_err());
        assert_eq!(near.read(&mut [0]).unwrap(), 0);
    }
}
