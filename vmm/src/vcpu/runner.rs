//! A thread that runs one vCPU, of one machine after another.
//!
//! Before 6.12, Linux waits for all processors (`synchronize_rcu`, in `kvm_vcpu_ioctl`) when a vCPU is run by another thread
//! than the last time: that takes longer than all else that a machine which goes on from a snapshot costs.

use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;

use kvm_ioctls::VcpuFd;

use crate::dump::VcpuDump;
use crate::trace::VcpuTrace;

/// Runs the vCPU until its machine ends.
pub(super) type Job = Box<dyn FnOnce() -> Done + Send>;

/// What is left then.
pub(super) struct Done {
    pub(super) trace: VcpuTrace,
    pub(super) dump: Option<VcpuDump>,
    /// The vCPU, if another machine may have it.
    pub(super) vcpu: Option<VcpuFd>,
}

/// The thread. Dropping it waits for its end.
pub(super) struct Runner {
    jobs: Option<mpsc::Sender<Job>>,
    done: mpsc::Receiver<Done>,
    handle: Option<JoinHandle<()>>,
}

impl Runner {
    /// Begins with `job`, of vCPU `index`.
    pub(super) fn start(index: u32, job: Job) -> io::Result<Self> {
        let (jobs, next) = mpsc::channel::<Job>();
        let (ended, done) = mpsc::channel();
        let body = move || {
            let mut job = job;
            while ended.send(job()).is_ok() {
                match next.recv() {
                    Ok(next) => job = next,
                    Err(mpsc::RecvError) => break,
                }
            }
        };
        let handle = crate::thread::named(&format!("vcpu{index}")).spawn(body)?;
        Ok(Self { jobs: Some(jobs), done, handle: Some(handle) })
    }

    /// Goes on with `job`, of the same vCPU in another machine.
    pub(super) fn run(self, job: Job) -> io::Result<Self> {
        match self.jobs.as_ref().map(|jobs| jobs.send(job)) {
            Some(Ok(())) => Ok(self),
            _ => Err(io::Error::other("a vCPU's thread is gone")),
        }
    }

    /// Waits for the end of its job; none if the thread died.
    pub(super) fn done(&self) -> Option<Done> {
        self.done.recv().ok()
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.jobs.take();
        // One that died has said so.
        let _ended = self.handle.take().map(JoinHandle::join);
    }
}
