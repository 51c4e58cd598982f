//! The attributes that make a function a test case: [`macro@guest_test`] and [`macro@vm_test`].

mod options;

use proc_macro::TokenStream;
use quote::quote;
use syn::{Error, ItemFn, parse_macro_input};

use options::Options;

/// Makes a function a case whose body runs in a guest, booted fresh for it.
///
/// The function takes nothing and returns `()` or a `Result`. Options: `cpus = N`, `memory = "512M"`,
/// `disk = scratch("16M")` (may be repeated), `console = true` (a virtio console beside the
/// UART), `control = true` (the machine's control socket), `timeout = SECONDS`, `append = "…"` to the kernel's command line.
#[proc_macro_attribute]
pub fn guest_test(options: TokenStream, item: TokenStream) -> TokenStream {
    let (options, function) = (parse_macro_input!(options as Options), parse_macro_input!(item as ItemFn));
    if let Some(input) = function.sig.inputs.first() {
        return Error::new_spanned(input, "a guest test takes nothing: its body runs in the guest")
            .into_compile_error()
            .into();
    }
    let name = &function.sig.ident;
    register(
        &function,
        &options,
        &quote! { guest },
        &quote! {
            || ::kiln::cases::IntoOutcome::into_outcome(#name())
        },
    )
}

/// Makes a function a case whose body runs on the host, with a booted guest in hand.
///
/// The function takes a `&mut kiln::cases::Guest` and returns `()` or a `Result`. The options are
/// [`macro@guest_test`]'s.
#[proc_macro_attribute]
pub fn vm_test(options: TokenStream, item: TokenStream) -> TokenStream {
    let (options, function) = (parse_macro_input!(options as Options), parse_macro_input!(item as ItemFn));
    if function.sig.inputs.len() != 1 {
        return Error::new_spanned(&function.sig, "a VM test takes one argument, `&mut kiln::cases::Guest`")
            .into_compile_error()
            .into();
    }
    let name = &function.sig.ident;
    register(
        &function,
        &options,
        &quote! { vm },
        &quote! {
            |guest| ::kiln::cases::IntoOutcome::into_outcome(#name(guest))
        },
    )
}

/// The function as it is, and an entry for it in the list of cases.
fn register(
    function: &ItemFn,
    options: &Options,
    kind: &proc_macro2::TokenStream,
    body: &proc_macro2::TokenStream,
) -> TokenStream {
    if let Some(asyncness) = &function.sig.asyncness {
        return Error::new_spanned(asyncness, "a test case is no async function").into_compile_error().into();
    }
    let name = &function.sig.ident;
    quote! {
        #function

        const _: () = {
            #[::kiln::cases::linkme::distributed_slice(::kiln::cases::CASES)]
            #[linkme(crate = ::kiln::cases::linkme)]
            static CASE: fn() -> ::std::vec::Vec<::kiln::cases::Case> = || {
                let path = concat!(module_path!(), "::", stringify!(#name));
                ::std::vec![::kiln::cases::Case::#kind(path, #options, #body)]
            };
        };
    }
    .into()
}
