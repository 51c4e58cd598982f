//! What stands in an attribute's parentheses.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::parse::{Parse, ParseStream};
use syn::{Error, Ident, LitBool, LitInt, LitStr, Result, Token, parenthesized};

/// The machine that a case asks for, as tokens that make a `kiln::cases::Options`.
#[derive(Default)]
pub(crate) struct Options {
    fields: Vec<TokenStream>,
    disks: Vec<u64>,
}

impl Parse for Options {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut options = Self::default();
        while !input.is_empty() {
            let name: Ident = input.parse()?;
            input.parse::<Token![=]>()?;
            options.option(&name, input)?;
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(options)
    }
}

impl Options {
    fn option(&mut self, name: &Ident, input: ParseStream<'_>) -> Result<()> {
        match name.to_string().as_str() {
            "cpus" => {
                let cpus: u32 = input.parse::<LitInt>()?.base10_parse()?;
                self.fields.push(quote! { cpus: #cpus });
            }
            "memory" => {
                let mib = size(&input.parse()?)? >> 20;
                self.fields.push(quote! { memory_mib: #mib });
            }
            "timeout" => {
                let seconds: u64 = input.parse::<LitInt>()?.base10_parse()?;
                self.fields.push(quote! { timeout: ::std::time::Duration::from_secs(#seconds) });
            }
            "append" => {
                let append: LitStr = input.parse()?;
                self.fields.push(quote! { append: #append });
            }
            "console" => {
                let console: LitBool = input.parse()?;
                self.fields.push(quote! { console: #console });
            }
            "control" => {
                let control: LitBool = input.parse()?;
                self.fields.push(quote! { control: #control });
            }
            "disk" => {
                let kind: Ident = input.parse()?;
                if kind != "scratch" {
                    return Err(Error::new(kind.span(), "the one kind of disk is scratch(\"16M\")"));
                }
                let inside;
                parenthesized!(inside in input);
                self.disks.push(size(&inside.parse()?)?);
            }
            other => {
                let text = format!(
                    "no option {other}: there are cpus, memory, disk, console, control, timeout and append"
                );
                return Err(Error::new(name.span(), text));
            }
        }
        Ok(())
    }
}

impl ToTokens for Options {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        let (fields, disks) = (&self.fields, &self.disks);
        tokens.extend(quote! {
            ::kiln::cases::Options {
                #(#fields,)*
                disks: ::std::vec![#(::kiln::cases::Disk::Scratch(#disks)),*],
                ..::std::default::Default::default()
            }
        });
    }
}

/// A size such as `16M` in bytes: K, M and G are binary, a bare number is MiB.
fn size(text: &LitStr) -> Result<u64> {
    let value = text.value();
    let (digits, shift) = match value.strip_suffix(['K', 'M', 'G']) {
        Some(digits) => (
            digits,
            if value.ends_with('K') {
                10
            } else if value.ends_with('M') {
                20
            } else {
                30
            },
        ),
        None => (value.as_str(), 20),
    };
    let number: u64 = digits.parse().map_err(|_| Error::new(text.span(), "no size: write 64K, 16M or 1G"))?;
    number.checked_mul(1 << shift).ok_or_else(|| Error::new(text.span(), "that is too large"))
}
