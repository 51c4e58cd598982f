//! Reasons over a small kernel that has one of each.

use std::fs;

use super::*;

const FILES: &[(&str, &str)] = &[
    (
        "Kconfig",
        r#"# comment
mainmenu "Linux $(KERNELVERSION)"
source "scripts/Kconfig.include"
config CC_HAS_X
	def_bool $(cc-option,-fx,(a))
config MODULES
	bool "modules" # trailing
	modules
source "arch/$(SRCARCH)/Kconfig"
source "arch/$(HEADER_ARCH)/um/Kconfig"
source "drivers/Kconfig"
source "gone/Kconfig"
"#,
    ),
    (
        "scripts/Kconfig.include",
        "comma := ,\nsuccess = $(if-success,$(1),y,n)\n$(error-if,$(failure,x),no)\n",
    ),
    (
        "arch/x86/Kconfig",
        r#"config X86
	def_bool "$(ARCH)" = "x86_64"
	select HAVE_OPT
	select FORCED if MODULES
config HAVE_OPT
	bool
config FORCED
	bool "forced"
choice
	prompt "Timer frequency"
	default HZ_250
config HZ_250
	bool "250 Hz"
config HZ_1000
	bool "1000 Hz"
endchoice
"#,
    ),
    (
        "drivers/Kconfig",
        "menu \"Drivers\"\n\tdepends on BUS\n\nconfig DEEP\n\tbool \"deep\"\n\tdepends on HAVE_OPT && \\\n\t\t(P || !Q)\n\
         \thelp\n\t  config NOT_HERE\n\n\t  depends on nothing\n\nendmenu\n\
         config BUS\n\tbool \"bus\"\nconfig P\n\tbool\nconfig Q\n\tbool \"q\"\n\
         if Q\nconfig UNDER_Q\n\ttristate \"under\"\n\tselect LOW\nendif\n\
         config LOW\n\ttristate\nconfig EXPERT\n\tbool \"e\"\nconfig ASKED_IF\n\tbool \"x\" if EXPERT\n\
         config WITH_X\n\tbool \"x\"\n\tdepends on CC_HAS_X\nconfig WITH_TOOL\n\tbool \"x\"\n\tdepends on $(success,tool)\n\
         config NUMBER\n\tint \"n\"\n\trange 1 MOST\nconfig MOST\n\tint\n\tdefault 9\nconfig LATER\n\tbool \"x\"\n\tdepends on BUS if Q\n\
         config NO_PROMPT\n\tbool\n\tdepends on BUS\nconfig BY_DEFAULT\n\tdef_bool y if BUS\n\
         config ON_THOSE\n\tbool \"o\"\n\tdepends on NO_PROMPT && BY_DEFAULT\n\
         config TEXT\n\tstring \"t\"\n\
         menu \"Hidden\"\n\tvisible if EXPERT\nconfig IN_HIDDEN\n\tbool \"h\"\nendmenu\n",
    ),
];

fn kernel() -> Kconfig {
    let source = tempfile::tempdir().unwrap();
    for (path, text) in FILES {
        let path = source.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    read(source.path()).unwrap()
}

#[track_caller]
fn assert_why(name: &str, wanted: &str, config: &str, reason: &str) {
    assert_eq!(kernel().why(name, wanted, &Values::read(config)), reason, "{name}");
}

const BASE: &str = "CONFIG_X86=y\nCONFIG_HAVE_OPT=y\n";

#[test]
fn files_are_followed_as_far_as_they_are_there() {
    let kernel = kernel();
    let names: Vec<_> = kernel.files.iter().map(|path| path.to_str().unwrap()).collect();
    assert_eq!(names, ["Kconfig", "scripts/Kconfig.include", "arch/x86/Kconfig", "drivers/Kconfig"]);
    assert!(kernel.has("IN_HIDDEN") && !kernel.has("NOT_HERE"));
    assert!(kernel.choice("HZ_250").is_some() && kernel.choice("HZ_250") == kernel.choice("HZ_1000"));
    assert_eq!(kernel.choice("BUS"), None);
    assert_eq!(kernel.needs("UNDER_Q"), ["LOW", "Q"]);
}

#[test]
fn option_that_is_nowhere_is_none_of_this_kernel() {
    assert_why("NOPE", "y", BASE, "this kernel has no such option");
}

#[test]
fn dependencies_that_fail_are_named_those_of_the_blocks_around_too() {
    assert_why(
        "DEEP",
        "y",
        &format!("{BASE}CONFIG_Q=y\n"),
        "it depends on CONFIG_BUS, which is not set, and on P || !Q (P is n, Q is y)",
    );
    assert_why("UNDER_Q", "m", "CONFIG_MODULES=y\n", "it depends on CONFIG_Q, which is not set");
    assert_why("LATER", "y", "CONFIG_Q=y\n", "it depends on !Q || BUS (Q is y, BUS is n)");
}

#[test]
fn option_without_a_prompt_names_what_sets_it() {
    assert_why("LOW", "y", BASE, "it can't be asked for: it is set by CONFIG_UNDER_Q");
    assert_why("P", "y", BASE, "it can't be asked for: kconfig decides by its default");
    assert_why(
        "FORCED",
        "n",
        &format!("{BASE}CONFIG_MODULES=y\nCONFIG_FORCED=y\n"),
        "it is set by CONFIG_X86",
    );
}

#[test]
fn option_without_a_prompt_that_another_needs_names_what_is_behind_it() {
    let lacks =
        |name: &str| format!("CONFIG_{name}, which is not set and can't be asked for (it needs CONFIG_BUS)");
    let reason = format!("it depends on {}, and on {}", lacks("NO_PROMPT"), lacks("BY_DEFAULT"));
    assert_why("ON_THOSE", "y", BASE, &reason);
}

#[test]
fn prompt_that_is_hidden_names_what_shows_it() {
    let reason = "it can be asked for only with CONFIG_EXPERT, which is not set";
    assert_why("ASKED_IF", "y", BASE, reason);
    assert_why("IN_HIDDEN", "y", BASE, reason);
    // It is on by its default, and no one is asked.
    assert_why("ASKED_IF", "n", &format!("{BASE}CONFIG_ASKED_IF=y\n"), reason);
}

#[test]
fn choice_names_the_option_that_was_taken() {
    assert_why("HZ_1000", "y", "CONFIG_HZ_250=y\n", "of its choice CONFIG_HZ_250 was taken");
}

#[test]
fn compiler_and_tools_are_blamed_where_they_are_asked() {
    assert_why(
        "WITH_X",
        "y",
        BASE,
        "it depends on CONFIG_CC_HAS_X, which a tool of this host lacks ($(cc-option,-fx,(a)))",
    );
    assert_why("WITH_TOOL", "y", BASE, "a tool of this host lacks what it needs: $(success,tool)");
}

#[test]
fn values_that_do_not_fit_say_what_would() {
    assert_why("NUMBER", "10", "CONFIG_NUMBER=9\nCONFIG_MOST=9\n", "its range is 1 to 9");
    assert_why("BUS", "\"y\"", BASE, "it takes no text: write CONFIG_BUS=y, without quotes");
    assert_why("TEXT", "\"y\"", BASE, "kconfig made it n");
    assert_why("BUS", "m", "CONFIG_MODULES=y\n", "it can't be a module: say y");
    assert_why(
        "UNDER_Q",
        "m",
        "CONFIG_Q=y\nCONFIG_UNDER_Q=y\n",
        "modules are off: CONFIG_MODULES is not set",
    );
}
