//! Which cases begin from a snapshot: those whose machine others of the run have, too.

use std::collections::BTreeMap;

use super::{Body, Case, Disk, Options};
use crate::fork;

/// What two cases have in common that can go on from one snapshot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Shape {
    kernel: Option<&'static str>,
    cpus: u32,
    memory_mib: u64,
    /// The size of each disk, and whether it is only read.
    disks: Vec<(u64, bool)>,
    files: Vec<(&'static str, &'static str)>,
    modules: Vec<&'static str>,
    loadable: Vec<&'static str>,
    append: &'static str,
    console: bool,
    folder: &'static str,
}

impl Shape {
    /// The shape of a case's machine; none for a case that boots: one whose disks the host has a part in, and one that other processes
    /// look at.
    fn of(case: &Case) -> Option<Self> {
        let (options, host_has_disks) = match &case.body {
            Body::Guest(options, _) => (options, false),
            Body::Vm(options, _) => (options, true),
            Body::Host(_) => return None,
        };
        if options.control || (host_has_disks && !options.disks.is_empty()) {
            return None;
        }
        let disk = |disk: &Disk| match *disk {
            Disk::Scratch(size) => Some((size, false)),
            Disk::ReadOnly(size) => Some((size, true)),
            Disk::Image(_) => None,
        };
        let Options { kernel, cpus, memory_mib, append, console, folder, .. } = *options;
        Some(Self {
            kernel,
            cpus,
            memory_mib,
            disks: options.disks.iter().map(disk).collect::<Option<_>>()?,
            files: options.files.clone(),
            modules: options.modules.clone(),
            loadable: options.loadable.clone(),
            append,
            console,
            folder,
        })
    }
}

/// The shapes of the machines of a run.
#[derive(Default)]
pub(super) struct Shapes {
    counts: BTreeMap<Shape, usize>,
    off: bool,
    /// Whether each case has a process of its own, which does not know how many others there are.
    alone: bool,
}

impl Shapes {
    /// Those of `cases`, in a run that was started in this process' environment.
    pub(super) fn of<'a>(cases: impl Iterator<Item = &'a Case>) -> Self {
        let alone = std::env::var_os("NEXTEST").is_some();
        let mut shapes = Self { off: fork::is_off(), alone, ..Self::default() };
        for shape in cases.filter_map(Shape::of) {
            *shapes.counts.entry(shape).or_default() += 1;
        }
        shapes
    }

    /// Whether the machine of `case` goes on from a snapshot: making one costs a little more than a boot, so it is to serve two.
    pub(super) fn fork(&self, case: &Case) -> bool {
        let others = || Shape::of(case).and_then(|shape| self.counts.get(&shape).copied()).unwrap_or(0);
        !self.off && (others() > 1 || (self.alone && Shape::of(case).is_some()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::Needs;

    #[test]
    fn cases_of_one_shape_fork_and_one_alone_boots() {
        let guest = |name: &str, options| Case::guest(name, options, || Ok(()));
        let disk = |disk| Options { disks: vec![disk], ..Options::default() };
        let cases = [
            guest("a", Options::default()),
            Case::vm("b", Options::default(), |_| Ok(())),
            guest("c", Options { cpus: 2, ..Options::default() }),
            guest("d", disk(Disk::Scratch(512))),
            guest("e", disk(Disk::Scratch(512))),
            Case::vm("f", disk(Disk::Scratch(512)), |_| Ok(())),
            guest("g", disk(Disk::Image("x"))),
            guest("h", disk(Disk::Image("x"))),
            guest("i", Options { control: true, ..Options::default() }),
            Case::host("j", Needs::Linux, || Ok(())),
        ];
        let mut shapes = Shapes { off: false, alone: false, ..Shapes::of(cases.iter()) };
        let forked = |shapes: &Shapes| {
            cases.iter().filter(|case| shapes.fork(case)).map(|case| case.name.as_str()).collect::<String>()
        };
        assert_eq!(forked(&shapes), "abde");
        shapes.alone = true;
        assert_eq!(forked(&shapes), "abcde");
        shapes.off = true;
        assert_eq!(forked(&shapes), "");
    }
}
