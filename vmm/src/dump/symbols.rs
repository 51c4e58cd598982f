//! Names for addresses, from the symbols of the kernel's ELF file: read only when something is dumped.

use std::fs::File;
use std::path::Path;

use object::{Object, ObjectSymbol, ReadCache, SymbolKind};

/// How far behind a symbol that has no size an address may be, to be named after it.
const UNSIZED: u64 = 4096;

/// Names each of `addresses` as `function+0xoffset`, as far as `kernel` is an ELF file whose symbols tell. A file that
/// can't be read has none: a dump does without.
pub(super) fn names(kernel: &Path, addresses: &[u64]) -> Vec<Option<String>> {
    find(kernel, addresses).unwrap_or_else(|| vec![None; addresses.len()])
}

fn find(kernel: &Path, addresses: &[u64]) -> Option<Vec<Option<String>>> {
    let cache = ReadCache::new(File::open(kernel).ok()?);
    let file = object::File::parse(&cache).ok()?;
    let mut order: Vec<usize> = (0..addresses.len()).collect();
    order.sort_unstable_by_key(|index| addresses.get(*index));
    let sorted: Vec<u64> = order.iter().filter_map(|index| addresses.get(*index).copied()).collect();
    // The nearest symbol's start for each address; of two that start together, the first with a size.
    let mut best: Vec<Option<(u64, bool, String)>> = vec![None; addresses.len()];
    for symbol in file.symbols() {
        if !matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Label | SymbolKind::Unknown) {
            continue;
        }
        let (start, size) = (symbol.address(), symbol.size());
        let Some(end) = start.checked_add(if size == 0 { UNSIZED } else { size }) else { continue };
        let first = sorted.partition_point(|address| *address < start);
        for (address, index) in sorted.iter().zip(&order).skip(first) {
            if *address >= end {
                break;
            }
            let Some(slot) = best.get_mut(*index) else { continue };
            let nearer = slot.as_ref().is_none_or(|(other, sized, _)| (start, size > 0) > (*other, *sized));
            if let Ok(name) = symbol.name()
                && nearer
                && start != 0
                && !name.is_empty()
            {
                *slot = Some((start, size > 0, name.to_owned()));
            }
        }
    }
    let name = |(address, best): (&u64, Option<(u64, bool, String)>)| {
        best.map(|(start, _, name)| format!("{name}+{:#x}", address - start))
    };
    Some(addresses.iter().zip(best).map(name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This test's own binary has symbols as a kernel has: this function's address is named after it.
    #[test]
    fn address_in_a_function_is_named_after_it_with_its_offset() {
        let own = std::env::current_exe().unwrap();
        let cache = ReadCache::new(File::open(&own).unwrap());
        let file = object::File::parse(&cache).unwrap();
        let symbol = file.symbols().find(|s| s.name() == Ok("main") && s.size() > 4).unwrap();
        let found = names(&own, &[1, symbol.address() + 3, symbol.address()]);
        assert_eq!(found, [None, Some("main+0x3".to_owned()), Some("main+0x0".to_owned())]);
    }

    #[test]
    fn file_without_symbols_names_nothing() {
        assert_eq!(names(Path::new("/dev/null"), &[1]), [None]);
        assert_eq!(names(Path::new("/no/such/file"), &[1]), [None]);
        assert_eq!(names(Path::new("/"), &[1]), [None]);
    }
}
