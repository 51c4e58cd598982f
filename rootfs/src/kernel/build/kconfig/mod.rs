//! A kernel's options, as its Kconfig files have them: enough to say why one can't be had.
//!
//! kconfig itself decides; what is read here explains its decision, and tells choices and modules' ways.

mod expr;
mod reader;
#[cfg(test)]
mod tests;
mod values;
mod why;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use expr::Expr;
pub(super) use reader::read;
pub(super) use values::Values;

/// All options of a kernel.
#[derive(Debug, Default)]
pub(super) struct Kconfig {
    /// Where each is defined; some are in several places.
    symbols: BTreeMap<String, Vec<Definition>>,
    /// What sets an option, whatever it depends on.
    selects: BTreeMap<String, Vec<Select>>,
    /// The files that were read, in the kernel's folder.
    pub(super) files: Vec<PathBuf>,
}

/// One place where an option is defined.
#[derive(Debug, Default)]
struct Definition {
    /// Whether it is y or n, and maybe m.
    boolean: bool,
    tristate: bool,
    /// What must all hold for it to be set, by itself or by a block around it.
    depends: Vec<Rc<Expr>>,
    /// What must hold as well for a user to be asked; without a prompt no one is.
    prompt: Option<Vec<Rc<Expr>>>,
    /// Of the options of a choice, one is taken.
    choice: Option<usize>,
    /// What its defaults are, and when.
    defaults: Vec<Expr>,
    /// The least and the most, as they are written.
    range: Option<(String, String)>,
}

#[derive(Debug)]
struct Select {
    by: String,
    condition: Option<Rc<Expr>>,
}

impl Definition {
    /// What the shell is asked for its defaults.
    fn macros(&self) -> Vec<&str> {
        let mut macros = Vec::new();
        self.defaults.iter().for_each(|expr| expr.macros(&mut macros));
        macros
    }
}

impl Kconfig {
    /// Whether there is such an option.
    pub(super) fn has(&self, name: &str) -> bool {
        self.symbols.contains_key(name)
    }

    /// Whether it can be a module, by its type.
    pub(super) fn is_tristate(&self, name: &str) -> bool {
        self.symbols
            .get(name)
            .is_some_and(|definitions| definitions.iter().any(|definition| definition.tristate))
    }

    /// The choice that an option is one of.
    pub(super) fn choice(&self, name: &str) -> Option<usize> {
        self.symbols.get(name)?.iter().find_map(|definition| definition.choice)
    }

    /// The options that `name` selects or depends on, and those that no one is asked for and that are there for it.
    pub(super) fn needs(&self, name: &str) -> Vec<&str> {
        let mut found = Vec::new();
        for (other, definitions) in &self.symbols {
            let mut reasons = Vec::new();
            for definition in definitions.iter().filter(|definition| definition.prompt.is_none()) {
                definition.defaults.iter().for_each(|expr| expr.symbols(&mut reasons));
            }
            if reasons.contains(&name) {
                found.push(other.as_str());
            }
        }
        for (selected, by) in &self.selects {
            if by.iter().any(|select| select.by == name) {
                found.push(selected.as_str());
            }
        }
        for definition in self.symbols.get(name).into_iter().flatten() {
            for expr in &definition.depends {
                expr.symbols(&mut found);
            }
        }
        found
    }
}
