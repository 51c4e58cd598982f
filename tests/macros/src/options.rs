//! What stands in an attribute's parentheses.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::parse::{ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::{Error, Ident, LitBool, LitInt, LitStr, Result, Token, bracketed, parenthesized};

use crate::expand::Kind;

/// Every option of a case with a guest.
const NAMES: &str = "kernel, cpus, memory, disk, disks, files, modules, loadable, append, console, control, timeout, level and allow_warning";

/// What a case asks for, as tokens that make a `kiln::cases::Options`.
#[derive(Default)]
pub(crate) struct Options {
    given: Vec<String>,
    fields: Vec<TokenStream>,
    disks: Vec<TokenStream>,
    level: Option<LitStr>,
}

impl Options {
    /// Reads them.
    pub(crate) fn parse(kind: Kind, tokens: TokenStream) -> Result<Self> {
        let parse = |input: ParseStream<'_>| {
            let mut options = Self::default();
            while !input.is_empty() {
                options.option(kind, input)?;
                if !input.is_empty() {
                    input.parse::<Token![,]>()?;
                }
            }
            Ok(options)
        };
        parse.parse2(tokens)
    }

    /// The level of KVM that a case on the host needs.
    pub(crate) fn needs(&self) -> TokenStream {
        match self.level.as_ref().map(LitStr::value).as_deref() {
            Some("linux") => quote! { ::kiln::gate::Needs::Linux },
            Some("payload") => quote! { ::kiln::gate::Needs::Payload },
            _ => quote! { ::kiln::gate::Needs::Nothing },
        }
    }

    fn option(&mut self, kind: Kind, input: ParseStream<'_>) -> Result<()> {
        let name: Ident = input.parse()?;
        let text = name.to_string();
        if kind == Kind::Host && text != "level" {
            let text = format!("no option `{text}`: a host test has no machine, and one option, level");
            return Err(Error::new(name.span(), text));
        }
        if text != "disk" && self.given.contains(&text) {
            return Err(Error::new(name.span(), format!("`{text}` is given twice")));
        }
        match text.as_str() {
            "cpus" => {
                let (cpus, span) = number(input)?;
                if cpus == 0 {
                    return Err(Error::new(span, "a machine has at least one processor"));
                }
                self.fields.push(quote! { cpus: #cpus });
            }
            "memory" => {
                input.parse::<Token![=]>()?;
                let text: LitStr = input.parse()?;
                let mib = size(&text)? >> 20;
                if mib == 0 {
                    return Err(Error::new(text.span(), "a machine has at least 1M of memory"));
                }
                self.fields.push(quote! { memory_mib: #mib });
            }
            "timeout" => {
                let (seconds, span) = number(input)?;
                if seconds == 0 {
                    return Err(Error::new(span, "a case has at least one second"));
                }
                self.fields.push(quote! { timeout: ::std::time::Duration::from_secs(#seconds as u64) });
            }
            "append" | "kernel" => {
                input.parse::<Token![=]>()?;
                let text: LitStr = input.parse()?;
                self.fields.push(match name == "append" {
                    true => quote! { append: #text },
                    false => quote! { kernel: ::core::option::Option::Some(#text) },
                });
            }
            "console" | "control" | "allow_warning" => {
                let on = flag(input)?;
                self.fields.push(quote! { #name: #on });
            }
            "modules" | "loadable" => {
                let modules = list(input)?;
                self.fields.push(quote! { #name: ::std::vec![#(#modules),*] });
            }
            "files" => {
                let files = list(input)?.iter().map(file).collect::<Result<Vec<_>>>()?;
                self.fields.push(quote! { files: ::std::vec![#(#files),*] });
            }
            "disk" => {
                input.parse::<Token![=]>()?;
                self.disks.push(disk(input)?);
            }
            "disks" => {
                input.parse::<Token![=]>()?;
                let inside;
                bracketed!(inside in input);
                self.disks.extend(Punctuated::<_, Token![,]>::parse_terminated_with(&inside, disk)?);
            }
            "level" => {
                input.parse::<Token![=]>()?;
                self.level = Some(level(kind, input.parse()?)?);
            }
            other => return Err(Error::new(name.span(), format!("no option `{other}`: there are {NAMES}"))),
        }
        self.given.push(text);
        Ok(())
    }
}

impl ToTokens for Options {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        let (fields, disks) = (&self.fields, &self.disks);
        tokens.extend(quote! {
            ::kiln::cases::Options {
                #(#fields,)*
                disks: ::std::vec![#(#disks),*],
                folder: env!("CARGO_MANIFEST_DIR"),
                ..::std::default::Default::default()
            }
        });
    }
}

fn number(input: ParseStream<'_>) -> Result<(u32, Span)> {
    input.parse::<Token![=]>()?;
    let number: LitInt = input.parse()?;
    Ok((number.base10_parse()?, number.span()))
}

/// An option that is on where it stands, or says so.
fn flag(input: ParseStream<'_>) -> Result<bool> {
    if !input.peek(Token![=]) {
        return Ok(true);
    }
    input.parse::<Token![=]>()?;
    Ok(input.parse::<LitBool>()?.value)
}

/// A list of texts.
fn list(input: ParseStream<'_>) -> Result<Vec<LitStr>> {
    input.parse::<Token![=]>()?;
    let inside;
    bracketed!(inside in input);
    let parse = |input: ParseStream<'_>| input.parse::<LitStr>();
    Ok(Punctuated::<_, Token![,]>::parse_terminated_with(&inside, parse)?.into_iter().collect())
}

/// A file of the crate's, and where it goes.
fn file(text: &LitStr) -> Result<TokenStream> {
    let value = text.value();
    match value.rsplit_once(':') {
        Some((from, to)) if !from.is_empty() && to.starts_with('/') => Ok(quote! { (#from, #to) }),
        _ => Err(Error::new(text.span(), "write \"SOURCE:DESTINATION\", the destination from the root")),
    }
}

fn level(kind: Kind, level: LitStr) -> Result<LitStr> {
    match (kind, level.value().as_str()) {
        (_, "linux") | (Kind::Host, "nothing" | "payload") => Ok(level),
        (Kind::Host, _) => Err(Error::new(level.span(), "a level is \"nothing\", \"payload\" or \"linux\"")),
        (_, "payload") => Err(Error::new(
            level.span(),
            "a Linux guest needs level \"linux\"; a case of level \"payload\" is a #[host_test]",
        )),
        _ => Err(Error::new(level.span(), "the level of a case with a guest is \"linux\"")),
    }
}

/// `scratch("16M")`, `scratch("16M", read_only)` or `image("FILE")`.
fn disk(input: ParseStream<'_>) -> Result<TokenStream> {
    const KINDS: &str = "a disk is scratch(\"16M\"), scratch(\"16M\", read_only) or image(\"FILE\")";
    let kind: Ident = input.parse()?;
    let inside;
    parenthesized!(inside in input);
    let text: LitStr = inside.parse()?;
    if kind == "image" {
        return Ok(quote! { ::kiln::cases::Disk::Image(#text) });
    }
    if kind != "scratch" {
        return Err(Error::new(kind.span(), KINDS));
    }
    let size = size(&text)?;
    if size == 0 || !size.is_multiple_of(512) {
        return Err(Error::new(text.span(), "a disk's size is a multiple of 512 bytes, and not 0"));
    }
    if inside.is_empty() {
        return Ok(quote! { ::kiln::cases::Disk::Scratch(#size) });
    }
    inside.parse::<Token![,]>()?;
    let word: Ident = inside.parse()?;
    if word != "read_only" || !inside.is_empty() {
        return Err(Error::new(word.span(), KINDS));
    }
    Ok(quote! { ::kiln::cases::Disk::ReadOnly(#size) })
}

/// A size such as `16M` in bytes: K, M and G are binary, a bare number is MiB.
fn size(text: &LitStr) -> Result<u64> {
    let value = text.value();
    let (digits, shift) = match value.strip_suffix(['K', 'M', 'G']) {
        Some(digits) if value.ends_with('K') => (digits, 10),
        Some(digits) if value.ends_with('G') => (digits, 30),
        Some(digits) => (digits, 20),
        None => (value.as_str(), 20),
    };
    let number: u64 = digits.parse().map_err(|_| Error::new(text.span(), "no size: write 64K, 16M or 1G"))?;
    number.checked_mul(1 << shift).ok_or_else(|| Error::new(text.span(), "that is too large"))
}
