//! Values of options, from text. Messages complete clap's "invalid value … for …:".

use std::path::PathBuf;
use std::time::Duration;

/// The most CPUs of a machine: xAPIC ids are a byte, 255 means all of them.
const CPUS_MAX: u32 = 254;
/// The longest time that is taken: a year.
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// The longest host name: Linux's `__NEW_UTS_LEN`.
const HOSTNAME_MAX: usize = 64;

/// A disk as given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    /// The image or block device.
    pub(crate) path: PathBuf,
    /// Whether the guest is refused to write.
    pub(crate) read_only: bool,
}

/// Something of the host that is put into the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Copied {
    /// A path of the host.
    pub(crate) source: PathBuf,
    /// An absolute path of the guest.
    pub(crate) destination: String,
}

/// A time: bare seconds, or with `ms`, `s`, `m` or `h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    time(
        text,
        &[("ms", 1), ("s", 1000), ("", 1000), ("m", 60_000), ("h", 3_600_000)],
        "90, 90s, 2m, 1h or 500ms",
    )
}

/// An age: hours, days or weeks.
pub(crate) fn age(text: &str) -> Result<Duration, String> {
    time(text, &[("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)], "12h, 7d or 2w")
}

fn time(text: &str, units: &[(&str, u64)], examples: &str) -> Result<Duration, String> {
    let (digits, unit) = split_number(text);
    let scale = units.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale);
    let (Some(scale), false) = (scale, digits.is_empty()) else {
        return Err(format!("not a time; write {examples}"));
    };
    let milliseconds = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(scale));
    match milliseconds.map(Duration::from_millis) {
        Some(Duration::ZERO) => Err("it can't be zero".to_owned()),
        Some(time) if time <= DURATION_MAX => Ok(time),
        _ => Err("more than a year".to_owned()),
    }
}

/// A number of CPUs.
pub(crate) fn cpus(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(cpus @ 1..=CPUS_MAX) => Ok(cpus),
        _ => Err(format!("a machine has 1 to {CPUS_MAX} CPUs")),
    }
}

/// `FILE[,ro]`. A file whose own name holds a comma is given with `,rw` at its end.
pub(crate) fn disk(text: &str) -> Result<Disk, String> {
    let (path, read_only) = match text.rsplit_once(',') {
        None => (text, false),
        Some((path, "ro")) => (path, true),
        Some((path, "rw")) => (path, false),
        Some((_, other)) => return Err(format!("unknown disk option '{other}'; there is ro (and rw)")),
    };
    if path.is_empty() {
        return Err("no file is named".to_owned());
    }
    Ok(Disk { path: path.into(), read_only })
}

/// `SRC:DST`, where DST is absolute. The last `:/` parts them, so SRC may hold colons.
pub(crate) fn copied(text: &str) -> Result<Copied, String> {
    let Some(colon) = text.rfind(":/") else {
        return Err("write SRC:DST, DST an absolute path of the guest".to_owned());
    };
    let (source, destination) = (&text[..colon], &text[colon + 1..]);
    if source.is_empty() {
        return Err("nothing before the colon".to_owned());
    }
    if destination.split('/').any(|part| matches!(part, "." | "..")) {
        return Err("the guest's path must hold no '.' or '..'".to_owned());
    }
    if destination.bytes().all(|byte| byte == b'/') {
        return Err("the guest's path is its root folder; name one below it".to_owned());
    }
    Ok(Copied { source: source.into(), destination: destination.to_owned() })
}

/// A module's name.
pub(crate) fn module(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if text.is_empty() || !text.bytes().all(plain) {
        return Err("a module's name is letters, digits, '_' and '-', no path and no .ko".to_owned());
    }
    Ok(text.to_owned())
}

/// A host name.
pub(crate) fn hostname(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    if text.is_empty() || text.len() > HOSTNAME_MAX || !text.bytes().all(plain) {
        return Err(format!("a host name is 1 to {HOSTNAME_MAX} letters, digits, '-' and '.'"));
    }
    Ok(text.to_owned())
}

/// The digits that `text` begins with, and the rest.
fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_takes_a_bare_number_for_seconds() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
    }

    #[test]
    fn duration_that_is_none_is_refused() {
        for text in ["", "s", "0", "0ms", "-5", "1.5s", "2d", "9999999999999h", "99999999999999999999999"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(age("7").is_err());
        assert_eq!(age("7d"), Ok(Duration::from_secs(7 * 86_400)));
    }

    #[test]
    fn cpus_out_of_range_are_refused_with_the_range() {
        assert_eq!(cpus("254"), Ok(254));
        for text in ["0", "255", "10000", "-1", "two", ""] {
            assert_eq!(cpus(text), Err("a machine has 1 to 254 CPUs".to_owned()), "{text}");
        }
    }

    #[test]
    fn disk_is_read_only_when_it_says_so() {
        assert_eq!(disk("a.img"), Ok(Disk { path: "a.img".into(), read_only: false }));
        assert_eq!(disk("a.img,ro"), Ok(Disk { path: "a.img".into(), read_only: true }));
        assert_eq!(disk("a,b.img,rw"), Ok(Disk { path: "a,b.img".into(), read_only: false }));
        assert!(disk("a.img,readonly").unwrap_err().contains("'readonly'"));
        assert!(disk(",ro").is_err());
        assert!(disk("").is_err());
    }

    #[test]
    fn copied_is_parted_at_the_last_absolute_path() {
        let both = copied("a:b/c:/etc/c").unwrap();
        assert_eq!((both.source, both.destination.as_str()), ("a:b/c".into(), "/etc/c"));
        for text in ["a", "a:b", ":/b", "a:/", "a:/b/../c", ""] {
            assert!(copied(text).is_err(), "{text}");
        }
    }

    #[test]
    fn module_and_hostname_are_plain_words() {
        assert!(module("virtio_blk").is_ok());
        assert!(module("../x").is_err());
        assert!(hostname("a\nb").is_err());
        assert!(hostname(&"a".repeat(65)).is_err());
    }
}
