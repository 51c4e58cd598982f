//! What the attributes make of a function, and what they say of one that they can't use.

use proc_macro2::TokenStream;
use quote::quote;

use crate::expand::{Kind, expand};

fn refusal(kind: Kind, options: TokenStream, item: TokenStream) -> String {
    expand(kind, options, item).map(|tokens| tokens.to_string()).unwrap_err().to_string()
}

fn made(kind: Kind, options: TokenStream, item: TokenStream) -> String {
    expand(kind, options, item).unwrap().to_string().replace(' ', "")
}

#[test]
fn unknown_option_is_refused_with_the_list() {
    let said = refusal(Kind::Guest, quote! { cpu = 2 }, quote! { fn t() {} });
    assert_eq!(
        said,
        "no option `cpu`: there are kernel, cpus, memory, disk, disks, files, modules, loadable, append, console, control, \
         timeout, level and allow_warning"
    );
    let said = refusal(Kind::Host, quote! { cpus = 2 }, quote! { fn t() {} });
    assert!(said.contains("one option, level"), "{said}");
}

#[test]
fn option_that_makes_no_machine_is_refused() {
    for (options, why) in [
        (quote! { cpus = 0 }, "at least one processor"),
        (quote! { cpus = 1, cpus = 2 }, "given twice"),
        (quote! { memory = "lots" }, "no size"),
        (quote! { memory = "1K" }, "at least 1M"),
        (quote! { timeout = 0 }, "at least one second"),
        (quote! { disk = floppy("1M") }, "scratch(\"16M\")"),
        (quote! { disk = scratch("0M") }, "multiple of 512"),
        (quote! { disks = [scratch("1M", write_only)] }, "read_only"),
        (quote! { files = ["only/a/source"] }, "SOURCE:DESTINATION"),
        (quote! { level = "payload" }, "#[host_test]"),
    ] {
        let said = refusal(Kind::Vm, options.clone(), quote! { fn t(guest: &mut Guest) {} });
        assert!(said.contains(why), "{options}: {said}");
    }
}

#[test]
fn options_become_the_machine() {
    let options = quote! {
        kernel = "6.12", cpus = 2, memory = "1G", disk = scratch("1M"), disks = [scratch("2M", read_only), image("d.img")],
        files = ["a:/b"], modules = ["dummy"], append = "quiet", console, timeout = 9, level = "linux", allow_warning = true
    };
    let made = made(Kind::Guest, options, quote! { fn t() {} });
    for part in [
        "kernel:::core::option::Option::Some(\"6.12\")",
        "cpus:2u32",
        "memory_mib:1024u64",
        "Disk::Scratch(1048576u64),::kiln::cases::Disk::ReadOnly(2097152u64),::kiln::cases::Disk::Image(\"d.img\")",
        "files:::std::vec![(\"a\",\"/b\")]",
        "modules:::std::vec![\"dummy\"]",
        "append:\"quiet\"",
        "console:true",
        "from_secs(9u32asu64)",
        "allow_warning:true",
    ] {
        assert!(made.contains(part), "{part} is not in {made}");
    }
}

#[test]
fn each_named_case_is_an_entry_with_its_values() {
    let item = quote! {
        #[case::small(1, "a")]
        #[case::large(1 << 20, "b")]
        fn holds(size: u64, name: &str, #[from(crate::disk)] disk: Disk) {}
    };
    let made = made(Kind::Guest, quote! {}, item);
    assert!(made.contains("\"holds::small\"") && made.contains("holds(1,\"a\",crate::disk())"), "{made}");
    assert!(made.contains("\"holds::large\"") && made.contains("holds(1<<20,\"b\",crate::disk())"), "{made}");
    assert!(!made.contains("#[case") && !made.contains("#[from"), "{made}");
}

#[test]
fn case_whose_values_do_not_fit_is_refused() {
    for (item, why) in [
        (quote! { #[case::one(1)] fn t(a: u8, b: u8) {} }, "gives 1 value, the function takes 2 of them"),
        (quote! { #[case::one(1)] #[case::one(2)] fn t(a: u8) {} }, "another case has this name"),
        (quote! { #[case(1)] fn t(a: u8) {} }, "a case has a name"),
        (quote! { fn t(a: u8) {} }, "#[from(function)]"),
        (quote! { fn t<T>() {} }, "not generic"),
        (quote! { async fn t() {} }, "no async function"),
        (quote! { #[should_panic] fn t() -> Result<(), ()> { Ok(()) } }, "returns nothing"),
        (quote! { #[should_panic(wanted = "x")] fn t() {} }, "expected"),
        (quote! { #[ignore(x)] fn t() {} }, "#[ignore = \"why\"]"),
    ] {
        let said = refusal(Kind::Guest, quote! {}, item.clone());
        assert!(said.contains(why), "{item}: {said}");
    }
    let said = refusal(Kind::Vm, quote! {}, quote! { fn t() {} });
    assert!(said.contains("&mut kiln::cases::Guest"), "{said}");
}

#[test]
fn attributes_of_libtest_are_kept_for_the_case() {
    let item = quote! { #[cfg(unix)] #[ignore = "slow"] #[should_panic(expected = "no")] fn t() {} };
    let made = made(Kind::Host, quote! { level = "payload" }, item);
    assert!(made.contains(".ignore(\"slow\").should_panic(::core::option::Option::Some(\"no\"))"), "{made}");
    assert!(made.contains("Needs::Payload") && made.matches("#[cfg(unix)]").count() == 2, "{made}");
    assert!(!made.contains("#[ignore") && !made.contains("#[should_panic"), "{made}");
}
