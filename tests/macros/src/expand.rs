//! From an attribute and its function to the function and its entries in the list of cases.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Error, ItemFn, Result};

use crate::function::{Argument, Function, Named};
use crate::options::Options;

/// Where a case's body runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// In a guest.
    Guest,
    /// On the host, with a guest.
    Vm,
    /// On the host alone.
    Host,
}

/// The function as the compiler is to see it, and what enters its cases.
pub(crate) fn expand(kind: Kind, options: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let options = Options::parse(kind, options)?;
    let function = Function::take(kind, syn::parse2::<ItemFn>(item)?)?;
    let cases: Vec<TokenStream> = if function.cases.is_empty() {
        vec![case(kind, &options, &function, None)?]
    } else {
        function
            .cases
            .iter()
            .map(|named| case(kind, &options, &function, Some(named)))
            .collect::<Result<_>>()?
    };
    let (item, conditions) = (&function.item, &function.conditions);
    Ok(quote! {
        #item

        #(#conditions)*
        const _: () = {
            #[::kiln::cases::linkme::distributed_slice(::kiln::cases::CASES)]
            #[linkme(crate = ::kiln::cases::linkme)]
            static ENTRY: fn() -> ::std::vec::Vec<::kiln::cases::Case> = || ::std::vec![#(#cases),*];
        };
    })
}

/// One case of the function.
fn case(kind: Kind, options: &Options, function: &Function, named: Option<&Named>) -> Result<TokenStream> {
    let name = &function.item.sig.ident;
    let mut path = name.to_string();
    if let Some(named) = named {
        path = format!("{path}::{}", named.name);
    }
    let path = quote! { concat!(module_path!(), "::", #path) };
    let arguments = arguments(function, named)?;
    let (ignored, panics) = (&function.ignored, &function.panics);
    let made = match kind {
        Kind::Guest => quote! {
            ::kiln::cases::Case::guest(#path, #options, || ::kiln::cases::IntoOutcome::into_outcome(#name(#(#arguments),*)))
        },
        Kind::Vm => quote! {
            ::kiln::cases::Case::vm(#path, #options, |guest| ::kiln::cases::IntoOutcome::into_outcome(#name(guest #(, #arguments)*)))
        },
        Kind::Host => {
            let needs = options.needs();
            quote! {
                ::kiln::cases::Case::host(#path, #needs, || ::kiln::cases::IntoOutcome::into_outcome(#name(#(#arguments),*)))
            }
        }
    };
    let ignored = ignored.as_ref().map(|why| quote! { .ignore(#why) });
    let panics = panics.as_ref().map(|expected| quote! { .should_panic(#expected) });
    Ok(quote! { #made #ignored #panics })
}

/// What the function is called with: the case's values in order, and what the fixtures return.
fn arguments(function: &Function, named: Option<&Named>) -> Result<Vec<TokenStream>> {
    let mut values = named.into_iter().flat_map(|named| &named.values);
    let wanted = function.arguments.iter().filter(|argument| matches!(argument, Argument::Value(_))).count();
    if let Some(named) = named
        && named.values.len() != wanted
    {
        let text =
            format!("the case gives {}, the function takes {wanted} of them", counted(named.values.len()));
        return Err(Error::new(named.name.span(), text));
    }
    let argument = |argument: &Argument| match argument {
        Argument::Fixture(function) => Ok(quote! { #function() }),
        Argument::Value(at) => values.next().map(|value| quote! { #value }).ok_or_else(|| {
            Error::new(
                *at,
                "nothing gives this argument a value: name cases with #[case::name(value, …)], or make it a \
                 fixture with #[from(function)]",
            )
        }),
    };
    function.arguments.iter().map(argument).collect()
}

fn counted(values: usize) -> String {
    match values {
        1 => "1 value".to_owned(),
        n => format!("{n} values"),
    }
}
