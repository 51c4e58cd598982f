//! Reads Kconfig files: options with the conditions of the blocks around them.

use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::expr::{Expr, macro_end};
use super::{Definition, Kconfig, Select};
use crate::Error;

/// Files that name each other deeper than this are in no kernel.
const DEEPEST: usize = 32;
/// No kernel has so many.
const FILES_MAX: usize = 20_000;

/// Reads the Kconfig files of the kernel in `source`, for x86-64.
///
/// # Errors
/// The first of them can't be read.
pub(in crate::kernel::build) fn read(source: &Path) -> Result<Kconfig, Error> {
    let mut reader = Reader { source, kconfig: Kconfig::default(), blocks: Vec::new(), choices: 0 };
    let first = source.join("Kconfig");
    let text = fs::read(&first).map_err(Error::io("read", &first))?;
    reader.kconfig.files.push("Kconfig".into());
    reader.file(&String::from_utf8_lossy(&text), 0);
    Ok(reader.kconfig)
}

struct Reader<'a> {
    source: &'a Path,
    kconfig: Kconfig,
    blocks: Vec<Block>,
    choices: usize,
}

/// What is between `if`, `menu` or `choice` and its end.
#[derive(Default)]
struct Block {
    depends: Vec<Rc<Expr>>,
    visible: Vec<Rc<Expr>>,
    choice: Option<usize>,
}

/// What the attributes that follow belong to.
enum Entry {
    /// The option of that name, its last definition.
    Option(String),
    /// The innermost block.
    Block,
    /// A comment, say.
    Nothing,
}

impl Reader<'_> {
    fn file(&mut self, text: &str, depth: usize) {
        let mut entry = Entry::Nothing;
        let mut lines = Lines::new(text);
        while let Some(line) = lines.next() {
            let line = without_comment(&expand(&line)).trim().to_owned();
            let (word, rest) = split_word(&line);
            match word {
                "config" | "menuconfig" => entry = self.option(rest),
                "choice" => {
                    self.choices += 1;
                    self.blocks.push(Block { choice: Some(self.choices), ..Block::default() });
                    entry = Entry::Block;
                }
                "menu" => {
                    self.blocks.push(Block::default());
                    entry = Entry::Block;
                }
                "if" => {
                    self.blocks.push(Block { depends: vec![Rc::new(Expr::read(rest))], ..Block::default() });
                    entry = Entry::Nothing;
                }
                "endif" | "endmenu" | "endchoice" => {
                    self.blocks.pop();
                    entry = Entry::Nothing;
                }
                "comment" | "mainmenu" => entry = Entry::Nothing,
                "source" => {
                    self.source(rest, depth);
                    entry = Entry::Nothing;
                }
                "help" | "---help---" => lines.skip_help(),
                _ => self.attribute(&entry, word, rest),
            }
        }
    }

    fn source(&mut self, what: &str, depth: usize) {
        let path = what.trim_matches(['"', '\'']);
        // What is below another architecture's folder is named by what is not known here.
        if depth >= DEEPEST || path.contains('$') || self.kconfig.files.len() >= FILES_MAX {
            return;
        }
        if let Ok(text) = fs::read(self.source.join(path)) {
            self.kconfig.files.push(PathBuf::from(path));
            self.file(&String::from_utf8_lossy(&text), depth + 1);
        }
    }

    fn option(&mut self, name: &str) -> Entry {
        let depends = self.blocks.iter().flat_map(|block| block.depends.iter().cloned()).collect();
        let choice = self.blocks.iter().rev().find_map(|block| block.choice);
        let definition = Definition { depends, choice, ..Definition::default() };
        self.kconfig.symbols.entry(name.to_owned()).or_default().push(definition);
        Entry::Option(name.to_owned())
    }

    fn attribute(&mut self, entry: &Entry, word: &str, rest: &str) {
        match entry {
            Entry::Option(name) => self.of_option(name, word, rest),
            Entry::Block => {
                let Some(block) = self.blocks.last_mut() else { return };
                match word {
                    "depends" => block.depends.push(dependency(rest)),
                    "visible" => block.visible.push(Rc::new(Expr::read(condition_of(rest)))),
                    // A choice's own prompt.
                    "bool" | "tristate" | "prompt" => {
                        if let (Some(_), Some(condition)) = split_condition(rest) {
                            block.visible.push(Rc::new(Expr::read(condition)));
                        }
                    }
                    _ => {}
                }
            }
            Entry::Nothing => {}
        }
    }

    fn of_option(&mut self, name: &str, word: &str, rest: &str) {
        if word == "select" {
            let (Some(selected), condition) = split_condition(rest) else { return };
            let condition = condition.map(|text| Rc::new(Expr::read(text)));
            let select = Select { by: name.to_owned(), condition };
            self.kconfig.selects.entry(selected.to_owned()).or_default().push(select);
            return;
        }
        let visible: Vec<Rc<Expr>> =
            self.blocks.iter().flat_map(|block| block.visible.iter().cloned()).collect();
        let definitions = self.kconfig.symbols.get_mut(name);
        let Some(definition) = definitions.and_then(|definitions| definitions.last_mut()) else { return };
        match word {
            "depends" => definition.depends.push(dependency(rest)),
            "bool" | "tristate" | "int" | "hex" | "string" | "prompt" => {
                definition.tristate |= word == "tristate";
                definition.boolean |= matches!(word, "bool" | "tristate");
                if let (Some(_), condition) = split_condition(rest) {
                    let own = condition.map(|text| Rc::new(Expr::read(text)));
                    definition.prompt = Some(visible.into_iter().chain(own).collect());
                }
            }
            "def_bool" | "def_tristate" | "default" => {
                definition.tristate |= word == "def_tristate";
                definition.boolean |= word != "default";
                let (value, condition) = split_condition(rest);
                definition.defaults.extend(value.into_iter().chain(condition).map(Expr::read));
            }
            "range" => {
                let mut bounds = rest.split_whitespace().map(str::to_owned);
                definition.range = bounds.next().zip(bounds.next());
            }
            _ => {}
        }
    }
}

/// `on A`, or `on A if B` of newer kernels: where B does not hold, nothing is asked.
fn dependency(rest: &str) -> Rc<Expr> {
    let expr = rest.strip_prefix("on").unwrap_or(rest);
    Rc::new(match split_condition(expr) {
        (Some(needed), Some(condition)) => {
            let not = Expr::Not(Box::new(Expr::read(condition)));
            Expr::Or(Box::new(not), Box::new(Expr::read(needed)))
        }
        _ => Expr::read(expr),
    })
}

fn condition_of(rest: &str) -> &str {
    rest.strip_prefix("if").unwrap_or(rest)
}

/// `WHAT if CONDITION`: the two, as far as they are there.
fn split_condition(text: &str) -> (Option<&str>, Option<&str>) {
    let text = text.trim();
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let first = rest.chars().next().unwrap_or_default();
        if matches!(first, '"' | '\'') {
            at += 1 + rest.get(1..).and_then(|inner| inner.find(first)).map_or(rest.len() - 1, |end| end + 1);
        } else if rest.starts_with("$(") {
            at += macro_end(rest).unwrap_or(rest.len());
        } else if is_if(rest) && text.get(..at).is_none_or(|before| !before.ends_with(is_name)) {
            let what = text.get(..at).unwrap_or_default().trim();
            return (Some(what).filter(|what| !what.is_empty()), rest.get(2..).map(str::trim));
        } else {
            at += first.len_utf8();
        }
    }
    (Some(text).filter(|what| !what.is_empty()), None)
}

fn is_if(text: &str) -> bool {
    text.strip_prefix("if").is_some_and(|rest| rest.starts_with(|c: char| !is_name(c)))
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn split_word(line: &str) -> (&str, &str) {
    let end = line.find(|c: char| !is_name(c) && c != '-').unwrap_or(line.len());
    let (word, rest) = line.split_at(end);
    (word, rest.trim())
}

/// What a kernel's Makefile tells kconfig by its environment.
fn expand(line: &str) -> String {
    line.replace("$(SRCARCH)", "x86").replace("$(ARCH)", "x86_64").replace("$(srctree)/", "")
}

fn without_comment(line: &str) -> &str {
    let mut quote = None;
    for (at, c) in line.char_indices() {
        match (quote, c) {
            (None, '#') => return &line[..at],
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), _) if c == open => quote = None,
            _ => {}
        }
    }
    line
}

/// Lines, with those that end in a backslash put together.
struct Lines<'a> {
    lines: std::iter::Peekable<std::str::Lines<'a>>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        Self { lines: text.lines().peekable() }
    }

    /// Passes over a help text: it ends before the first line that is less indented than its own first.
    fn skip_help(&mut self) {
        let mut own = None;
        while let Some(line) = self.lines.peek() {
            if !line.trim().is_empty() {
                let indent = indent(line);
                if *own.get_or_insert(indent) > indent || indent == 0 {
                    return;
                }
            }
            self.lines.next();
        }
    }
}

impl Iterator for Lines<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let mut line = self.lines.next()?.to_owned();
        while line.ends_with('\\') {
            line.pop();
            let Some(more) = self.lines.next() else { break };
            line.push_str(more);
        }
        Some(line)
    }
}

/// How far a line is indented; a tab goes to the next multiple of eight.
fn indent(line: &str) -> usize {
    let mut column = 0_usize;
    for c in line.chars() {
        match c {
            ' ' => column += 1,
            '\t' => column = (column + 1).next_multiple_of(8),
            _ => break,
        }
    }
    column
}
