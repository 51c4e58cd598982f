//! A kernel's ELF without what a boot does not need: section headers, relocations, and the zeros that its segments
//! end in. A distribution's kernel carries a dozen MiB of them, to be copied into memory that is zero already.

use super::elf::{HEADER_SIZE, P_FILESZ, P_OFFSET, PH_SIZE, PHNUM, PHOFF, PT_LOAD, number};

// Where the header says where its sections are (gABI, ELF header): all zero for "none".
const SHOFF: std::ops::Range<usize> = 0x28..0x30;
const SHNUM_AND_SHSTRNDX: std::ops::Range<usize> = 0x3c..0x40;
const PAGE: usize = 4096;
const NOTE_ALIGN: usize = 8;

/// A program header, and where its bytes are.
struct Segment {
    header: Vec<u8>,
    offset: usize,
    size: usize,
}

/// The ELF, slimmer; none if it is laid out in a way that is not understood here, and is better left alone.
pub(super) fn slim(elf: &[u8]) -> Option<Vec<u8>> {
    let mut header = elf.get(..HEADER_SIZE)?.to_vec();
    let (at, count) = (usize::try_from(number::<u64>(&header, PHOFF)).ok()?, number::<u16>(&header, PHNUM));
    let size = usize::from(PH_SIZE);
    let table = elf.get(at..at.checked_add(size.checked_mul(count.into())?)?)?;
    let segments: Vec<Segment> = table
        .chunks_exact(size)
        .map(|header| {
            Some(Segment {
                header: header.to_vec(),
                offset: usize::try_from(number::<u64>(header, P_OFFSET)).ok()?,
                size: usize::try_from(number::<u64>(header, P_FILESZ)).ok()?,
            })
        })
        .collect::<Option<_>>()?;

    header.get_mut(SHOFF)?.fill(0);
    header.get_mut(SHNUM_AND_SHSTRNDX)?.fill(0);
    header.get_mut(PHOFF..PHOFF + 8)?.copy_from_slice(&u64::try_from(HEADER_SIZE).ok()?.to_le_bytes());
    let mut slim = header;
    slim.resize(HEADER_SIZE + table.len(), 0);
    // Where each loaded segment's bytes were, how many are kept, and where they are now.
    let mut moved = Vec::new();
    for segment in segments.iter().filter(|segment| is_load(segment)) {
        let bytes = elf.get(segment.offset..segment.offset.checked_add(segment.size)?)?;
        let kept = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        // Offset and address agree within a page, as they did.
        let offset = slim.len().next_multiple_of(PAGE) + segment.offset % PAGE;
        slim.resize(offset, 0);
        slim.extend_from_slice(bytes.get(..kept)?);
        moved.push((segment.offset, kept, offset));
    }
    for (index, segment) in segments.into_iter().enumerate() {
        let mut header = segment.header.clone();
        let (offset, size) = if segment.size == 0 {
            (0, 0)
        } else if is_load(&segment) {
            let (_, kept, to) = moved.iter().find(|(from, ..)| *from == segment.offset)?;
            (*to, *kept)
        } else {
            // Notes lie in a loaded segment, or apart.
            let end = segment.offset.checked_add(segment.size)?;
            let inside = moved.iter().find(|(from, kept, _)| *from <= segment.offset && end <= from + kept);
            let to = match inside {
                Some((from, _, to)) => to + (segment.offset - from),
                None => {
                    let to = slim.len().next_multiple_of(NOTE_ALIGN);
                    slim.resize(to, 0);
                    slim.extend_from_slice(elf.get(segment.offset..end)?);
                    to
                }
            };
            (to, segment.size)
        };
        header.get_mut(P_OFFSET..P_OFFSET + 8)?.copy_from_slice(&u64::try_from(offset).ok()?.to_le_bytes());
        header.get_mut(P_FILESZ..P_FILESZ + 8)?.copy_from_slice(&u64::try_from(size).ok()?.to_le_bytes());
        let at = HEADER_SIZE + index * usize::from(PH_SIZE);
        slim.get_mut(at..at + header.len())?.copy_from_slice(&header);
    }
    Some(slim)
}

fn is_load(segment: &Segment) -> bool {
    number::<u32>(&segment.header, 0) == PT_LOAD
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_loads_the_same_and_is_shorter_by_its_zeros() {
        let elf = kiln_fixtures::by_name("halt-32").unwrap().elf();
        // The same kernel with a MiB of zeros at its segment's end, and junk behind it.
        let mut fat = elf.clone();
        let table = usize::try_from(number::<u64>(&elf, PHOFF)).unwrap();
        let load = (0..usize::from(number::<u16>(&elf, PHNUM)))
            .map(|index| table + index * usize::from(PH_SIZE))
            .find(|&at| number::<u32>(&elf[at..], 0) == PT_LOAD)
            .unwrap();
        let end = number::<u64>(&elf[load..], P_OFFSET) + number::<u64>(&elf[load..], P_FILESZ);
        fat.truncate(usize::try_from(end).unwrap());
        fat.resize(fat.len() + (1 << 20), 0);
        for field in [P_FILESZ, P_FILESZ + 8] {
            let size = number::<u64>(&elf[load..], field) + (1 << 20);
            fat[load + field..load + field + 8].copy_from_slice(&size.to_le_bytes());
        }
        fat.extend_from_slice(b"relocations");
        let slimmed = slim(&fat).unwrap();
        assert!(slimmed.len() < 20_000, "{}", slimmed.len());
        assert_eq!(loaded(&fat), loaded(&slimmed));
        assert_eq!(entry(&fat), entry(&slimmed));
    }

    fn file(elf: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), elf).unwrap();
        file
    }

    fn loaded(elf: &[u8]) -> Vec<u8> {
        use vm_memory::{Bytes, GuestAddress};
        let memory = crate::memory::allocate(8 << 20).unwrap();
        let file = file(elf);
        super::super::elf::load(&memory, file.path(), &mut file.reopen().unwrap()).map(drop).unwrap();
        let mut bytes = vec![0; 2 << 20];
        memory.read_slice(&mut bytes, GuestAddress(1 << 20)).unwrap();
        bytes
    }

    fn entry(elf: &[u8]) -> Option<u64> {
        let memory = crate::memory::allocate(8 << 20).unwrap();
        let file = file(elf);
        match super::super::elf::load(&memory, file.path(), &mut file.reopen().unwrap()).unwrap().by {
            super::super::Protocol::Pvh { entry } => Some(entry),
            _ => None,
        }
    }

    #[test]
    fn what_is_not_understood_is_left_alone() {
        let elf = kiln_fixtures::by_name("halt").unwrap().elf();
        assert!(slim(b"\x7fELF").is_none());
        assert!(slim(&elf[..100]).is_none());
        let mut wild = elf.clone();
        wild[PHOFF..PHOFF + 8].fill(0xff);
        assert!(slim(&wild).is_none());
    }
}
