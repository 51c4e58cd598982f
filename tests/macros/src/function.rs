//! What stands on and in a test's function: its cases, its fixtures, whether it is ignored or panics.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Attribute, Error, Expr, FnArg, Ident, ItemFn, LitStr, Meta, Path, Result, ReturnType, Token};

use crate::expand::Kind;

/// A function, and what was said of it.
pub(crate) struct Function {
    /// Without the attributes that are for us.
    pub(crate) item: ItemFn,
    /// The named cases.
    pub(crate) cases: Vec<Named>,
    /// What each argument is, but for a guest.
    pub(crate) arguments: Vec<Argument>,
    /// Why it is ignored, if it is.
    pub(crate) ignored: Option<String>,
    /// What its panic has in it, as tokens of an `Option`, if it is to panic.
    pub(crate) panics: Option<TokenStream>,
    /// Its `cfg`s, which hold for its entry too.
    pub(crate) conditions: Vec<Attribute>,
}

/// A case with values of its own.
pub(crate) struct Named {
    pub(crate) name: Ident,
    pub(crate) values: Vec<Expr>,
}

/// Where an argument comes from.
pub(crate) enum Argument {
    /// The case; and where the argument stands.
    Value(Span),
    /// A function.
    Fixture(Path),
}

impl Function {
    /// Takes the attributes that are for us off the function.
    pub(crate) fn take(kind: Kind, mut item: ItemFn) -> Result<Self> {
        if let Some(asyncness) = &item.sig.asyncness {
            return Err(Error::new_spanned(asyncness, "a test case is no async function"));
        }
        if !item.sig.generics.params.is_empty() {
            return Err(Error::new_spanned(&item.sig.generics, "a test case is not generic"));
        }
        let mut cases: Vec<Named> = Vec::new();
        let (mut ignored, mut panics, mut conditions) = (None, None, Vec::new());
        let mut kept = Vec::new();
        for attribute in std::mem::take(&mut item.attrs) {
            let path = attribute.path();
            if path.is_ident("ignore") {
                ignored = Some(reason(&attribute)?);
            } else if path.is_ident("should_panic") {
                if !matches!(item.sig.output, ReturnType::Default) {
                    let text = "a test that is to panic returns nothing";
                    return Err(Error::new_spanned(&item.sig.output, text));
                }
                panics = Some(expected(&attribute)?);
            } else if path.segments.first().is_some_and(|first| first.ident == "case") {
                let case = named(&attribute)?;
                if cases.iter().any(|other| other.name == case.name) {
                    return Err(Error::new(case.name.span(), "another case has this name"));
                }
                cases.push(case);
            } else {
                if path.is_ident("cfg") {
                    conditions.push(attribute.clone());
                }
                kept.push(attribute);
            }
        }
        item.attrs = kept;
        let arguments = arguments(kind, &mut item)?;
        Ok(Self { item, cases, arguments, ignored, panics, conditions })
    }
}

/// `#[ignore]` or `#[ignore = "why"]`.
fn reason(attribute: &Attribute) -> Result<String> {
    match &attribute.meta {
        Meta::Path(_) => Ok(String::new()),
        Meta::NameValue(pair) => Ok(text(&pair.value)?.value()),
        Meta::List(_) => Err(Error::new_spanned(attribute, "write #[ignore] or #[ignore = \"why\"]")),
    }
}

/// `#[should_panic]`, `#[should_panic = "…"]` or `#[should_panic(expected = "…")]`.
fn expected(attribute: &Attribute) -> Result<TokenStream> {
    let expected = match &attribute.meta {
        Meta::Path(_) => return Ok(quote! { ::core::option::Option::None }),
        Meta::NameValue(pair) => text(&pair.value)?,
        Meta::List(list) => {
            let pair: syn::MetaNameValue = list.parse_args()?;
            if !pair.path.is_ident("expected") {
                return Err(Error::new_spanned(&pair.path, "write #[should_panic(expected = \"…\")]"));
            }
            text(&pair.value)?
        }
    };
    Ok(quote! { ::core::option::Option::Some(#expected) })
}

fn text(value: &Expr) -> Result<LitStr> {
    syn::parse2(quote! { #value }).map_err(|_| Error::new_spanned(value, "a text in quotes is wanted here"))
}

/// `#[case::name(value, …)]`.
fn named(attribute: &Attribute) -> Result<Named> {
    const WANTED: &str = "a case has a name: write #[case::name(value, …)]";
    let segments = &attribute.path().segments;
    let name = match (segments.len(), segments.last()) {
        (2, Some(last)) => last.ident.clone(),
        _ => return Err(Error::new_spanned(attribute, WANTED)),
    };
    let values = match &attribute.meta {
        Meta::Path(_) => Vec::new(),
        Meta::List(list) => {
            let values = Punctuated::<Expr, Token![,]>::parse_terminated.parse2(list.tokens.clone())?;
            values.into_iter().collect()
        }
        Meta::NameValue(_) => return Err(Error::new_spanned(attribute, WANTED)),
    };
    Ok(Named { name, values })
}

/// What each argument is; a guest, where one is to be, is looked for and left out.
fn arguments(kind: Kind, item: &mut ItemFn) -> Result<Vec<Argument>> {
    let whole = item.sig.fn_token.span();
    let mut inputs = item.sig.inputs.iter_mut();
    if kind == Kind::Vm {
        let is_guest = |input: &&mut FnArg| matches!(&**input, FnArg::Typed(typed) if matches!(&*typed.ty, syn::Type::Reference(r) if r.mutability.is_some()));
        if inputs.next().filter(is_guest).is_none() {
            return Err(Error::new(whole, "a VM test's first argument is a `&mut kiln::cases::Guest`"));
        }
    }
    let argument = |input: &mut FnArg| {
        let at = input.span();
        let FnArg::Typed(typed) = input else {
            return Err(Error::new(at, "a test case is no method"));
        };
        let mut from = None;
        let mut kept = Vec::new();
        for attribute in std::mem::take(&mut typed.attrs) {
            if attribute.path().is_ident("from") {
                from = Some(attribute.parse_args::<Path>()?);
            } else {
                kept.push(attribute);
            }
        }
        typed.attrs = kept;
        Ok(from.map_or(Argument::Value(at), Argument::Fixture))
    };
    inputs.map(argument).collect()
}
