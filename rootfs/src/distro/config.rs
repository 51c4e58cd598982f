//! Apt's configuration for private use: the host's way to the net and its trust, but none of its hooks.

use std::path::Path;

/// The configuration file. `host` is what `apt-config dump` says of the host's; of it only how packages are
/// acquired is kept. Hooks that the host runs after an update must not run for us: they clean its own caches. `sources`
/// is a list of sources in place of the host's.
pub(super) fn text(host: &str, root: &Path, sources: Option<&Path>) -> String {
    let mut text = String::new();
    for line in
        host.lines().filter(|line| line.starts_with("Acquire::") || line.starts_with("APT::Default-Release"))
    {
        text.push_str(line);
        text.push('\n');
    }
    let root = root.display();
    text.push_str(&format!(
        "Dir::Etc::Parts \"/dev/null\";\n\
         Dir::Etc::Main \"/dev/null\";\n\
         Dir::State \"{root}/state\";\n\
         Dir::State::status \"{root}/status\";\n\
         Dir::Cache \"{root}/cache\";\n\
         Dir::Log \"{root}/log\";\n\
         APT::Sandbox::User \"\";\n\
         APT::Install-Recommends \"false\";\n\
         APT::Install-Suggests \"false\";\n\
         APT::Get::Assume-Yes \"true\";\n\
         APT::Get::AllowUnauthenticated \"false\";\n\
         Acquire::AllowInsecureRepositories \"false\";\n\
         Acquire::AllowWeakRepositories \"false\";\n\
         Acquire::AllowDowngradeToInsecureRepositories \"false\";\n\
         Acquire::Retries \"3\";\n"
    ));
    if let Some(sources) = sources {
        text.push_str(&format!(
            "Dir::Etc::SourceList \"{}\";\nDir::Etc::SourceParts \"/dev/null\";\n",
            sources.display()
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_kept_hooks_are_not_and_signatures_are_asked_for() {
        let host = "APT::Update::Post-Invoke:: \"rm -f /x\";\nAcquire::http::Proxy \"http://p\";\n\
                    Acquire::AllowInsecureRepositories \"true\";\n";
        let text = text(host, Path::new("/c"), None);
        assert!(text.contains("Acquire::http::Proxy \"http://p\";\n") && !text.contains("Post-Invoke"));
        let last = text.lines().rfind(|line| line.starts_with("Acquire::AllowInsecureRepositories"));
        assert_eq!(last, Some("Acquire::AllowInsecureRepositories \"false\";"));
        assert!(text.contains("Dir::State::status \"/c/status\";"));
    }
}
