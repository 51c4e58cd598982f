//! The attributes that make a function a test case: [`macro@guest_test`], [`macro@vm_test`] and [`macro@host_test`].

mod expand;
mod function;
mod options;
#[cfg(test)]
mod tests;

use proc_macro::TokenStream;

use expand::{Kind, expand};

/// Makes a function a case whose body runs in a guest, booted fresh for it, in this same test binary.
///
/// The function returns `()`, or a `Result` whose error is `Debug`.
///
/// # Options
/// - `kernel = "6.12"`: a packaged kernel's release, or a file of the crate's; else the run's own
/// - `cpus = 2`, `memory = "512M"`
/// - `disk = scratch("16M")`, as often as wanted, or `disks = [scratch("16M"), …]`: an empty disk that goes with the
///   case; `scratch("1M", read_only)`; `image("tests/disk.img")`, a file of the crate's, read only
/// - `files = ["tests/data:/data"]`: files of the crate's and where they are in the guest
/// - `modules = ["dummy"]`: modules of the kernel's to load before the case
/// - `loadable = ["dummy"]`: modules that are in the guest for the case to load, and what they depend on loaded
/// - `append = "…"` to the kernel's command line
/// - `console`: a virtio console (`hvc0`) beside the UART
/// - `control`: the machine's control socket
/// - `timeout = 120`: the limit in seconds on the machine's clock, its boot included
/// - `level = "linux"`: the level of KVM that it needs, and the only one that runs a Linux guest
/// - `allow_warning`: what the kernel warns of, a taint and a module that is left do not fail the case
///
/// # Other attributes
/// `#[ignore = "why"]`, `#[should_panic]` and `#[should_panic(expected = "…")]` mean what they mean for `#[test]`.
///
/// `#[case::name(value, …)]` makes a case of that name: the values are the function's arguments, in order. A test may
/// have many; `module::function::name` is what a case is called.
///
/// An argument with `#[from(function)]` is a fixture: what that function returns is made anew for each case, where
/// the body runs.
#[proc_macro_attribute]
pub fn guest_test(options: TokenStream, item: TokenStream) -> TokenStream {
    entry(Kind::Guest, options, item)
}

/// Makes a function a case whose body runs on the host, with a booted guest in hand.
///
/// Its first argument is a `&mut kiln::cases::Guest`; all else is as for [`macro@guest_test`].
#[proc_macro_attribute]
pub fn vm_test(options: TokenStream, item: TokenStream) -> TokenStream {
    entry(Kind::Vm, options, item)
}

/// Makes a function a case whose body runs on the host, with no guest: what it needs of KVM it opens itself.
///
/// The one option is `level`: `"nothing"`, which is the default, `"payload"` or `"linux"`. The other attributes are
/// [`macro@guest_test`]'s.
#[proc_macro_attribute]
pub fn host_test(options: TokenStream, item: TokenStream) -> TokenStream {
    entry(Kind::Host, options, item)
}

fn entry(kind: Kind, options: TokenStream, item: TokenStream) -> TokenStream {
    expand(kind, options.into(), item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}
