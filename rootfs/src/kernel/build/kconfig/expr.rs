//! Conditions of Kconfig files: read, evaluated, and taken apart into those that fail.
//!
//! The syntax is that of Documentation/kbuild/kconfig-language.rst, "Menu dependencies".

use std::fmt;

use super::values::Values;

/// Parentheses and negations deeper than this are in no kernel.
const DEEPEST: usize = 64;

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::kernel::build) enum Expr {
    /// An option's value.
    Symbol(String),
    /// A text in quotes.
    Constant(String),
    /// `$(…)`: what kconfig asks of the shell, the compiler for the most part. Not known here.
    Macro(String),
    Not(Box<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
    /// A comparison of two words.
    Compare(Box<Self>, &'static str, Box<Self>),
}

/// A tristate: n, m, y.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::kernel::build) enum Tristate {
    No,
    Module,
    Yes,
}

impl Tristate {
    pub(super) fn of(text: &str) -> Self {
        match text {
            "y" => Self::Yes,
            "m" => Self::Module,
            _ => Self::No,
        }
    }
}

impl Expr {
    /// Reads a condition; one that makes no sense is taken for a macro, of which nothing is known.
    pub(super) fn read(text: &str) -> Self {
        let whole = || Self::Macro(text.trim().to_owned());
        let Some(tokens) = tokens(text) else { return whole() };
        let mut parser = Parser { tokens: &tokens, next: 0, depth: 0 };
        match parser.or() {
            Some(expr) if parser.next == tokens.len() => expr,
            _ => whole(),
        }
    }

    /// Its value, with every macro taken for `macros`.
    fn value(&self, values: &Values, macros: Tristate) -> Tristate {
        match self {
            Self::Symbol(name) => Tristate::of(values.text(name)),
            Self::Constant(text) => Tristate::of(text),
            Self::Macro(_) => macros,
            Self::Not(inner) => match inner.value(values, macros) {
                Tristate::No => Tristate::Yes,
                Tristate::Module => Tristate::Module,
                Tristate::Yes => Tristate::No,
            },
            Self::And(a, b) => a.value(values, macros).min(b.value(values, macros)),
            Self::Or(a, b) => a.value(values, macros).max(b.value(values, macros)),
            Self::Compare(a, operator, b) => match (a.word(values), b.word(values)) {
                (Some(a), Some(b)) if compare(a, operator, b) => Tristate::Yes,
                (Some(_), Some(_)) => Tristate::No,
                _ => macros,
            },
        }
    }

    /// The most that it can be, whatever the macros in it say.
    pub(super) fn most(&self, values: &Values) -> Tristate {
        self.value(values, Tristate::Yes).max(self.value(values, Tristate::No))
    }

    /// What a word in a comparison stands for.
    fn word<'a>(&'a self, values: &'a Values) -> Option<&'a str> {
        match self {
            Self::Symbol(name) if name.starts_with(|c: char| c.is_ascii_digit() || c == '-') => Some(name),
            Self::Symbol(name) => Some(values.text(name)),
            Self::Constant(text) => Some(text),
            _ => None,
        }
    }

    /// Its parts that must all hold.
    pub(super) fn conjuncts<'a>(&'a self, parts: &mut Vec<&'a Self>) {
        if let Self::And(a, b) = self {
            a.conjuncts(parts);
            b.conjuncts(parts);
        } else {
            parts.push(self);
        }
    }

    /// The options in it.
    pub(super) fn symbols<'a>(&'a self, found: &mut Vec<&'a str>) {
        match self {
            Self::Symbol(name) => found.push(name),
            Self::Not(inner) => inner.symbols(found),
            Self::And(a, b) | Self::Or(a, b) | Self::Compare(a, _, b) => {
                a.symbols(found);
                b.symbols(found);
            }
            Self::Constant(_) | Self::Macro(_) => {}
        }
    }

    /// The macros in it.
    pub(super) fn macros<'a>(&'a self, found: &mut Vec<&'a str>) {
        match self {
            Self::Macro(text) => found.push(text),
            Self::Not(inner) => inner.macros(found),
            Self::And(a, b) | Self::Or(a, b) | Self::Compare(a, _, b) => {
                a.macros(found);
                b.macros(found);
            }
            Self::Symbol(_) | Self::Constant(_) => {}
        }
    }
}

/// What a missing option is compared as: it is `n` and it is empty.
fn compare(a: &str, operator: &str, b: &str) -> bool {
    let no = |text: &str| text.is_empty() || text == "n";
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => i128::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    let order = match (number(a), number(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ if no(a) && no(b) => std::cmp::Ordering::Equal,
        _ => a.cmp(b),
    };
    match operator {
        "=" => order.is_eq(),
        "!=" => order.is_ne(),
        "<" => order.is_lt(),
        "<=" => order.is_le(),
        ">" => order.is_gt(),
        _ => order.is_ge(),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(Expr),
    Operator(&'static str),
}

/// The longest first.
const OPERATORS: &[&str] = &["&&", "||", "!=", "<=", ">=", "=", "<", ">", "!", "(", ")"];

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if let Some(operator) = OPERATORS.iter().find(|operator| rest.starts_with(**operator)) {
            tokens.push(Token::Operator(operator));
            rest = rest.get(operator.len()..)?;
        } else if first == '"' || first == '\'' {
            let (constant, after) = rest.get(1..)?.split_once(first)?;
            tokens.push(Token::Word(Expr::Constant(constant.to_owned())));
            rest = after;
        } else if rest.starts_with("$(") {
            let end = macro_end(rest)?;
            tokens.push(Token::Word(Expr::Macro(rest.get(..end)?.to_owned())));
            rest = rest.get(end..)?;
        } else {
            let is_word = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            let word = rest.get(..end).filter(|word| !word.is_empty())?;
            tokens.push(Token::Word(match word {
                "y" | "m" | "n" => Expr::Constant(word.to_owned()),
                _ => Expr::Symbol(word.to_owned()),
            }));
            rest = rest.get(end..)?;
        }
        rest = rest.trim_start();
    }
    Some(tokens)
}

/// Where the `$(…)` that `text` begins with is over.
pub(super) fn macro_end(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

struct Parser<'a> {
    tokens: &'a [Token],
    next: usize,
    depth: usize,
}

impl Parser<'_> {
    fn take(&mut self, wanted: &[&'static str]) -> Option<&'static str> {
        match self.tokens.get(self.next) {
            Some(Token::Operator(operator)) if wanted.contains(operator) => {
                self.next += 1;
                Some(operator)
            }
            _ => None,
        }
    }

    fn or(&mut self) -> Option<Expr> {
        let mut left = self.and()?;
        while self.take(&["||"]).is_some() {
            left = Expr::Or(Box::new(left), Box::new(self.and()?));
        }
        Some(left)
    }

    fn and(&mut self) -> Option<Expr> {
        let mut left = self.unary()?;
        while self.take(&["&&"]).is_some() {
            left = Expr::And(Box::new(left), Box::new(self.unary()?));
        }
        Some(left)
    }

    fn unary(&mut self) -> Option<Expr> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return None;
        }
        let expr = if self.take(&["!"]).is_some() {
            Expr::Not(Box::new(self.unary()?))
        } else if self.take(&["("]).is_some() {
            let inner = self.or()?;
            self.take(&[")"])?;
            inner
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Some(expr)
    }

    fn comparison(&mut self) -> Option<Expr> {
        let left = self.word()?;
        match self.take(&["=", "!=", "<", "<=", ">", ">="]) {
            Some(operator) => Some(Expr::Compare(Box::new(left), operator, Box::new(self.word()?))),
            None => Some(left),
        }
    }

    fn word(&mut self) -> Option<Expr> {
        let Some(Token::Word(word)) = self.tokens.get(self.next) else { return None };
        self.next += 1;
        Some(word.clone())
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Symbol(text) | Self::Macro(text) => f.write_str(text),
            Self::Constant(text) if matches!(text.as_str(), "y" | "m" | "n") => f.write_str(text),
            Self::Constant(text) => write!(f, "\"{text}\""),
            Self::Not(inner) => match &**inner {
                Self::And(..) | Self::Or(..) | Self::Compare(..) => write!(f, "!({inner})"),
                _ => write!(f, "!{inner}"),
            },
            Self::And(a, b) => {
                for (part, joint) in [(a, ""), (b, " && ")] {
                    match &**part {
                        Self::Or(..) => write!(f, "{joint}({part})")?,
                        _ => write!(f, "{joint}{part}")?,
                    }
                }
                Ok(())
            }
            Self::Or(a, b) => write!(f, "{a} || {b}"),
            Self::Compare(a, operator, b) => write!(f, "{a}{operator}{b}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Tristate {
        let values = Values::read("CONFIG_Y=y\nCONFIG_M=m\nCONFIG_V=120300\nCONFIG_S=\"x86\"\n");
        Expr::read(text).value(&values, Tristate::No)
    }

    #[test]
    fn conditions_have_kconfigs_values() {
        for (text, expected) in [
            ("Y", Tristate::Yes),
            ("M && Y", Tristate::Module),
            ("!M", Tristate::Module),
            ("Y && (N || !N)", Tristate::Yes),
            ("N || M", Tristate::Module),
            ("!Y || N", Tristate::No),
            ("M = m && Y=y && N != y && N = n", Tristate::Yes),
            ("V >= 120000 && V<200000", Tristate::Yes),
            ("V < 90000", Tristate::No),
            ("S = \"x86\" && \"a\" != 'b'", Tristate::Yes),
            ("y", Tristate::Yes),
        ] {
            assert_eq!(value(text), expected, "{text}");
        }
    }

    #[test]
    fn macro_is_one_word_whatever_is_in_it() {
        let expr = Expr::read("Y && $(cc-option,-fx=(1),$(m64-flag)) && N");
        let mut parts = Vec::new();
        expr.conjuncts(&mut parts);
        assert_eq!(parts.len(), 3);
        assert_eq!(parts[1], &Expr::Macro("$(cc-option,-fx=(1),$(m64-flag))".to_owned()));
        assert_eq!(Expr::read("!$(x)").most(&Values::default()), Tristate::Yes);
    }

    #[test]
    fn what_makes_no_sense_is_not_guessed_at() {
        for text in ["", "&&", "A B", "(A", "A = ", "$(x", "\"a", "A & B", "!"] {
            assert_eq!(Expr::read(text), Expr::Macro(text.trim().to_owned()), "{text}");
        }
        let deep = format!("{}A", "!".repeat(100_000));
        assert!(matches!(Expr::read(&deep), Expr::Macro(_)));
    }

    #[test]
    fn conditions_are_shown_as_they_are_written() {
        for text in ["A && (B || !C)", "A=y || B!=\"x\"", "!(A && B)"] {
            assert_eq!(Expr::read(text).to_string(), text);
        }
    }
}
