//! Why an option is not what was asked for.

use std::rc::Rc;

use super::expr::{Expr, Tristate};
use super::{Definition, Kconfig, Values};

/// How many names a list in a sentence has.
const NAMES_MAX: usize = 4;

impl Kconfig {
    /// Why the option `name` is not `wanted` in the configuration `values`: the rest of a sentence.
    pub(in crate::kernel::build) fn why(&self, name: &str, wanted: &str, values: &Values) -> String {
        let Some(definitions) = self.symbols.get(name) else {
            return "this kernel has no such option".to_owned();
        };
        let got = values.raw(name);
        if let Some(bare) =
            unquoted(wanted).filter(|_| definitions.iter().any(|definition| definition.boolean))
        {
            return format!("it takes no text: write CONFIG_{name}={bare}, without quotes");
        }
        if wanted == "n" {
            return self.why_set(name, values);
        }
        if wanted == "m" && got != Some("m") {
            if !definitions.iter().any(|definition| definition.tristate) {
                return "it can't be a module: say y".to_owned();
            }
            if !values.is_yes("MODULES") {
                return "modules are off: CONFIG_MODULES is not set".to_owned();
            }
            if got == Some("y") {
                return self.why_set(name, values);
            }
        }
        let least = Tristate::of(wanted).max(Tristate::Module);
        // The place that is nearest to it.
        let unmet = definitions.iter().map(|definition| failing(&definition.depends, least, values));
        let nearest = unmet.min_by_key(Vec::len).unwrap_or_default();
        if !nearest.is_empty() {
            return format!("it depends on {}", self.list(&nearest, values));
        }
        if let Some(other) = self.taken(definitions, name, values) {
            return format!("of its choice CONFIG_{other} was taken");
        }
        match hidden(definitions, values) {
            None => self.without_prompt(name, definitions),
            Some(hidden) if !hidden.is_empty() => {
                format!("it can be asked for only with {}", self.list(&hidden, values))
            }
            Some(_) => otherwise(definitions, got, values),
        }
    }

    fn without_prompt(&self, name: &str, definitions: &[Definition]) -> String {
        let by: Vec<&str> = self.selects.get(name).into_iter().flatten().map(|s| s.by.as_str()).collect();
        let macros: Vec<&str> = definitions.iter().flat_map(Definition::macros).collect();
        if let Some(asked) = macros.first() {
            return format!("it can't be asked for: a tool of this host decides, by {asked}");
        }
        if by.is_empty() {
            return "it can't be asked for: kconfig decides by its default".to_owned();
        }
        format!("it can't be asked for: it is set by {}", names(&by))
    }

    /// Who sets an option that was to be off, or a module.
    fn why_set(&self, name: &str, values: &Values) -> String {
        let selects = self.selects.get(name).into_iter().flatten();
        let by: Vec<&str> = selects
            .filter(|select| {
                let holds = |expr: &Rc<Expr>| expr.most(values) != Tristate::No;
                values.raw(&select.by).is_some() && select.condition.as_ref().is_none_or(holds)
            })
            .map(|select| select.by.as_str())
            .collect();
        let definitions = self.symbols.get(name).map_or(&[][..], Vec::as_slice);
        if !by.is_empty() {
            return format!("it is set by {}", names(&by));
        }
        match hidden(definitions, values) {
            None => "it can't be asked for: kconfig decides by its default".to_owned(),
            Some(hidden) if !hidden.is_empty() => {
                format!("it can be asked for only with {}", self.list(&hidden, values))
            }
            Some(_) => format!("kconfig made it {}", values.raw(name).unwrap_or("n")),
        }
    }

    /// The option that was taken of the choice that these are of.
    fn taken(&self, definitions: &[Definition], name: &str, values: &Values) -> Option<&str> {
        let choice = definitions.iter().find_map(|definition| definition.choice)?;
        self.symbols.iter().find_map(|(other, definitions)| {
            let rival = definitions.iter().any(|definition| definition.choice == Some(choice));
            (rival && other != name && values.is_yes(other)).then_some(other.as_str())
        })
    }

    fn list(&self, unmet: &[&Expr], values: &Values) -> String {
        let all: Vec<String> = unmet.iter().map(|expr| self.lacking(expr, values)).collect();
        all.join(", and on ")
    }

    /// A condition that does not hold, and what it is with it.
    fn lacking(&self, expr: &Expr, values: &Values) -> String {
        match expr {
            Expr::Symbol(name) => format!("CONFIG_{name}, which {}", self.state(name, values)),
            Expr::Not(inner) if matches!(&**inner, Expr::Symbol(_)) => {
                format!(
                    "CONFIG_{inner} being off, which is {}",
                    values.raw(&inner.to_string()).unwrap_or("n")
                )
            }
            other => {
                let mut symbols = Vec::new();
                other.symbols(&mut symbols);
                symbols.retain(|name| !name.starts_with(|c: char| c.is_ascii_digit()));
                symbols.dedup();
                let state = |name: &&str| format!("{name} is {}", values.raw(name).unwrap_or("n"));
                let states: Vec<String> = symbols.iter().take(NAMES_MAX).map(state).collect();
                format!("{other} ({})", states.join(", "))
            }
        }
    }

    fn state(&self, name: &str, values: &Values) -> String {
        let Some(definitions) = self.symbols.get(name) else {
            return "this kernel does not have".to_owned();
        };
        if values.is_module(name) {
            return "is m".to_owned();
        }
        if definitions.iter().any(|definition| definition.prompt.is_some()) {
            return "is not set".to_owned();
        }
        let by: Vec<&str> = self.selects.get(name).into_iter().flatten().map(|s| s.by.as_str()).collect();
        match definitions.iter().flat_map(Definition::macros).next() {
            Some(asked) => format!("a tool of this host lacks ({asked})"),
            None if by.is_empty() => {
                let off = || "is not set and can't be asked for".to_owned();
                let behind = behind(definitions, values);
                if behind.is_empty() { off() } else { format!("{} (it needs {})", off(), names(&behind)) }
            }
            None => format!("is not set (by {})", names(&by)),
        }
    }
}

/// What keeps the options without a prompt that these define from being set, one level deep: what they depend on, or
/// else what their defaults ask for.
fn behind<'a>(definitions: &'a [Definition], values: &Values) -> Vec<&'a str> {
    let unmet = definitions.iter().map(|definition| failing(&definition.depends, Tristate::Module, values));
    let mut symbols = Vec::new();
    for expr in unmet.min_by_key(Vec::len).unwrap_or_default() {
        expr.symbols(&mut symbols);
    }
    if symbols.is_empty() {
        definitions
            .iter()
            .flat_map(|definition| &definition.defaults)
            .for_each(|expr| expr.symbols(&mut symbols));
    }
    symbols.retain(|name| values.raw(name).is_none());
    symbols.dedup();
    symbols
}

/// What of the conditions of the prompt that is nearest to being shown fails; `None` if there is no prompt.
fn hidden<'a>(definitions: &'a [Definition], values: &Values) -> Option<Vec<&'a Expr>> {
    let prompts = definitions.iter().filter_map(|definition| definition.prompt.as_ref());
    prompts.map(|prompt| failing(prompt, Tristate::Module, values)).min_by_key(Vec::len)
}

/// What is in the quotes, if that is a tristate's value.
fn unquoted(value: &str) -> Option<&str> {
    let inner = value.strip_prefix('"')?.strip_suffix('"')?;
    matches!(inner, "y" | "m" | "n").then_some(inner)
}

/// What remains when all that can be evaluated holds.
fn otherwise(definitions: &[Definition], got: Option<&str>, values: &Values) -> String {
    if let Some((least, most)) = definitions.iter().find_map(|definition| definition.range.as_ref()) {
        let bound = |bound: &str| values.raw(bound).unwrap_or(bound).to_owned();
        return format!("its range is {} to {}", bound(least), bound(most));
    }
    let depends = definitions.iter().flat_map(|definition| &definition.depends);
    let mut macros = Vec::new();
    depends.for_each(|expr| expr.macros(&mut macros));
    if macros.is_empty() {
        return format!("kconfig made it {}", got.unwrap_or("n"));
    }
    format!("a tool of this host lacks what it needs: {}", macros.join(", "))
}

/// Those of `conditions` that keep an option below `least`, taken apart.
fn failing<'a>(conditions: &'a [Rc<Expr>], least: Tristate, values: &Values) -> Vec<&'a Expr> {
    let mut parts = Vec::new();
    for expr in conditions {
        expr.conjuncts(&mut parts);
    }
    parts.retain(|expr| expr.most(values) < least);
    // The same condition stands around and within many a block.
    let mut unmet: Vec<&Expr> = Vec::new();
    for part in parts {
        if !unmet.contains(&part) {
            unmet.push(part);
        }
    }
    unmet
}

/// As many names as a sentence bears.
fn names(all: &[&str]) -> String {
    let shown: Vec<String> = all.iter().take(NAMES_MAX).map(|name| format!("CONFIG_{name}")).collect();
    match all.len().checked_sub(NAMES_MAX) {
        Some(more @ 1..) => format!("{} and {more} more", shown.join(", ")),
        _ => shown.join(", "),
    }
}
