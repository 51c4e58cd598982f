//! Kernels' releases: how they are compared, and which of them a user means.

/// What packaged kernels' releases end with, the one that suits a guest best first.
const FLAVOURS: &[&str] = &["-cloud-amd64", "-kvm", "-virtual", "-generic", "-amd64"];

/// Whether a word can be a release, or the beginning of one: `6`, `6.12`, `6.1.0-48-cloud-amd64`.
#[must_use]
pub fn is_release_like(word: &str) -> bool {
    let fit = |c: char| c.is_ascii_alphanumeric() || "+-._~".contains(c);
    let first = word.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    let rest = word.get(first.len()..).unwrap_or_default();
    !first.is_empty()
        && word.len() <= super::header::LONGEST
        && word.chars().all(fit)
        && (rest.is_empty() || rest.starts_with('.'))
}

/// Whether `release` is `wanted` or a closer version of it: 6.1.0-48 is 6.1, 6.12 is not.
pub(super) fn is_release(release: &str, wanted: &str) -> bool {
    let rest = (!wanted.is_empty()).then(|| release.strip_prefix(wanted)).flatten();
    rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// The numbers of a release, to compare by.
pub(super) fn version(release: &str) -> Vec<u64> {
    let numbers = release.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    numbers.map(|digits| digits.parse().unwrap_or(u64::MAX)).collect()
}

/// What a packaged kernel is made for, of those that suit a guest.
pub(super) fn flavour_of(release: &str) -> Option<&'static str> {
    FLAVOURS.iter().copied().find(|flavour| {
        let Some(version) = release.strip_suffix(flavour) else { return false };
        // `-amd64` ends `-rt-amd64`, too; and 6.12-cloud-amd64 is a package that only names the current 6.12.
        let last = version.rsplit_once('-').map_or(version, |(_, last)| last);
        version.starts_with(|c: char| c.is_ascii_digit())
            && last.starts_with(|c: char| c.is_ascii_digit())
            && version.matches('.').count() >= 2
    })
}

/// The release among `releases` that `wanted` means: of the best flavour that fits, the newest.
pub(super) fn choose<'a>(releases: impl Iterator<Item = &'a str>, wanted: &str) -> Option<&'a str> {
    let fitting: Vec<_> = releases.filter(|release| is_release(release, wanted)).collect();
    FLAVOURS.iter().find_map(|flavour| {
        let of_flavour = fitting.iter().copied().filter(|release| flavour_of(release) == Some(flavour));
        of_flavour.max_by_key(|release| version(release))
    })
}
