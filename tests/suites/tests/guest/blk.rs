//! Disks as the guest uses them, past its page cache.

use std::fs;
use std::io;
use std::thread;

use kiln::guest::{Block, Sysfs};
use kiln::guest_test;

const SECTOR: usize = 512;

/// Sectors that tell their place and their writer: none looks like another.
fn sectors(count: usize, seed: u32) -> Vec<u8> {
    (0..)
        .flat_map(|n: u32| (n ^ seed << 20).wrapping_mul(2_654_435_761).to_le_bytes())
        .take(count * SECTOR)
        .collect()
}

fn disk() -> Block {
    Block::open("vda").unwrap_or_else(|error| panic!("no disk: {error}"))
}

#[guest_test(disks = [scratch("1M"), scratch("3M")])]
fn sizes_are_what_was_asked_for() -> io::Result<()> {
    assert_eq!((Block::open("vda")?.size()?, Block::open("vdb")?.size()?), (1 << 20, 3 << 20));
    Ok(())
}

#[guest_test(disk = scratch("1M"))]
fn scratch_disk_is_empty(#[from(disk)] disk: Block) -> io::Result<()> {
    assert!(disk.read(0, 2048)?.iter().all(|&byte| byte == 0));
    Ok(())
}

#[guest_test(disk = scratch("1M"))]
#[case::first(0, 1)]
#[case::last(2047, 1)]
#[case::odd_stretch(3, 1021)]
#[case::whole_disk(0, 2048)]
fn sectors_come_back_as_they_were_written(
    first: u64,
    count: usize,
    #[from(disk)] disk: Block,
) -> io::Result<()> {
    let wanted = sectors(count, 1);
    disk.write(first, &wanted)?;
    assert!(disk.read(first, count)? == wanted);
    Ok(())
}

#[guest_test(disk = scratch("1M"))]
fn sectors_around_a_write_stay_as_they_were(#[from(disk)] disk: Block) -> io::Result<()> {
    disk.write(0, &sectors(2048, 2))?;
    disk.write(100, &[0; SECTOR])?;
    let (whole, wanted) = (disk.read(0, 2048)?, sectors(2048, 2));
    let (from, to) = (100 * SECTOR, 101 * SECTOR);
    assert!(whole[..from] == wanted[..from] && whole[to..] == wanted[to..]);
    assert!(whole[from..to].iter().all(|&byte| byte == 0));
    Ok(())
}

#[guest_test(disk = scratch("1M"))]
fn sectors_past_the_end_are_refused(#[from(disk)] disk: Block) {
    assert!(disk.read(2048, 1).is_err() && disk.write(2048, &[1; SECTOR]).is_err());
    assert!(disk.read(2047, 1).is_ok());
}

#[guest_test(disk = scratch("1M", read_only))]
fn read_only_disk_takes_no_write(#[from(disk)] disk: Block) -> io::Result<()> {
    assert!(disk.is_read_only()?);
    assert!(disk.write(0, &[1; SECTOR]).is_err());
    assert!(
        fs::OpenOptions::new().write(true).open("/dev/vda").and_then(|file| file.sync_all()).is_err() || {
            disk.read(0, 1)?.iter().all(|&byte| byte == 0)
        }
    );
    Ok(())
}

#[guest_test(disk = image("tests/guest/data.img"), files = ["tests/guest/data.img:/data/copy"])]
fn image_and_file_of_the_crate_are_there_as_they_are(#[from(disk)] disk: Block) -> io::Result<()> {
    let copy = fs::read("/data/copy")?;
    assert_eq!((disk.size()?, copy.len()), (1024, 1024));
    assert!(copy.starts_with(b"kiln's own disk\n"));
    assert!(disk.read(0, 2)? == copy && disk.is_read_only()?);
    Ok(())
}

#[guest_test(disk = scratch("4M"), cpus = 2)]
fn writers_side_by_side_do_not_mix(#[from(disk)] disk: Block) -> io::Result<()> {
    thread::scope(|scope| {
        for (writer, first) in (1..=4_u32).zip((0_u64..).step_by(2048)) {
            let disk = &disk;
            scope.spawn(move || {
                for piece in 0..8 {
                    disk.write(first + piece * 256, &sectors(256, writer)).unwrap();
                }
            });
        }
    });
    for (writer, first) in (1..=4_u32).zip((0_u64..).step_by(2048)) {
        for piece in 0..8 {
            assert!(disk.read(first + piece * 256, 256)? == sectors(256, writer), "writer {writer}");
        }
    }
    Ok(())
}

#[guest_test(disk = scratch("1M"))]
fn flush_reaches_the_device(#[from(disk)] disk: Block) -> io::Result<()> {
    /// The field of `stat` that counts flushes (Documentation/block/stat.rst).
    const FLUSHES: usize = 15;
    let flushes = || -> io::Result<u64> {
        let stat = disk.attributes().read("stat")?;
        let field = stat.split_whitespace().nth(FLUSHES).unwrap_or_default();
        field.parse().map_err(|_| io::Error::other(format!("no count of flushes in {stat}")))
    };
    let before = flushes()?;
    disk.write(0, &sectors(1, 3))?;
    disk.flush()?;
    assert!(flushes()? > before);
    Ok(())
}

#[guest_test(disk = scratch("1M"))]
fn sector_is_the_unit_of_the_queue(#[from(disk)] disk: Block) -> io::Result<()> {
    let queue = disk.attributes().folder("queue");
    assert_eq!(queue.value::<u32>("logical_block_size")?, 512);
    assert_eq!(queue.value::<u32>("hw_sector_size")?, 512);
    Ok(())
}

#[guest_test(disk = scratch("2M"))]
fn page_cache_writes_back_and_reads_anew() -> io::Result<()> {
    let wanted = sectors(4096, 5);
    fs::OpenOptions::new().write(true).open("/dev/vda").and_then(|mut file| {
        io::Write::write_all(&mut file, &wanted)?;
        file.sync_all()
    })?;
    Sysfs::at("/proc/sys/vm").write("drop_caches", "3")?;
    assert!(fs::read("/dev/vda")? == wanted);
    assert!(disk().read(0, 4096)? == wanted);
    Ok(())
}
