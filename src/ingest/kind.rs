//! What a column holds.

use super::source::Cell;
use crate::error::{Error, Result};
use serde_json::Value;
use std::fmt;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Whole numbers of 64 bits.
    Int,
    /// Numbers.
    Float,
    /// True or false.
    Bool,
    /// Texts.
    Text,
    /// Lists of whole numbers.
    Ints(Separator),
    /// Lists of numbers.
    Floats(Separator),
    /// Lists of texts.
    Texts(Separator),
}

/// What stands between the elements of a list in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Separator(pub char);

impl Kind {
    /// Reads `int`, `float`, `bool`, `text`, `ints`, `floats`, `texts`; a list's separator may follow: `ints|`.
    pub fn parse(text: &str) -> Option<Self> {
        let end = text.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(text.len());
        let (name, separator) = text.split_at(end);
        let mut separator = separator.chars();
        let (between, more) = (separator.next(), separator.next());
        let list = Separator(between.unwrap_or(','));
        match (name, between, more) {
            ("int", None, _) => Some(Self::Int),
            ("float", None, _) => Some(Self::Float),
            ("bool", None, _) => Some(Self::Bool),
            ("text", None, _) => Some(Self::Text),
            ("ints", _, None) => Some(Self::Ints(list)),
            ("floats", _, None) => Some(Self::Floats(list)),
            ("texts", _, None) => Some(Self::Texts(list)),
            _ => None,
        }
    }

    /// Whether a value fits.
    ///
    /// # Errors
    /// What does not, to which the caller adds where it stands.
    pub(super) fn check(self, cell: &Cell) -> Result<()> {
        let fits = match self {
            Self::Int => cell.is_int(),
            Self::Float => cell.is_float(),
            Self::Bool => cell.is_bool(),
            Self::Text => !matches!(cell, Cell::Json(Value::Object(_) | Value::Array(_))),
            Self::Ints(between) => cell.all(between, |element| element.is_int()),
            Self::Floats(between) => cell.all(between, |element| element.is_float()),
            Self::Texts(between) => cell.all(between, |element| !matches!(element, Cell::Json(v) if !v.is_string())),
        };
        let shown: String = cell.text().chars().take(40).collect();
        let error = || {
            Error::data(format!("`{shown}` is no {self}")).fix("give the column another kind, as in `--types price=float,city=text`, or leave such lines out with --skip-bad-lines")
        };
        if fits || *cell == Cell::Null { Ok(()) } else { Err(error()) }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Int => "whole number",
            Self::Float => "number",
            Self::Bool => "truth value",
            Self::Text => "text",
            Self::Ints(_) => "list of whole numbers",
            Self::Floats(_) => "list of numbers",
            Self::Texts(_) => "list of texts",
        })
    }
}

impl Cell<'_> {
    /// The whole number that it is.
    pub fn int(&self) -> Option<i64> {
        match self {
            Self::Text(text) => text.trim().parse().ok(),
            Self::Json(value) => value.as_i64(),
            Self::Null => None,
        }
    }

    /// The number that it is.
    pub fn float(&self) -> Option<f64> {
        match self {
            Self::Text(text) => text.trim().parse().ok(),
            Self::Json(value) => value.as_f64(),
            Self::Null => None,
        }
    }

    /// The truth value that it is.
    pub fn bool(&self) -> Option<bool> {
        match self {
            Self::Text(text) if text.eq_ignore_ascii_case("true") => Some(true),
            Self::Text(text) if text.eq_ignore_ascii_case("false") => Some(false),
            Self::Json(value) => value.as_bool(),
            _ => None,
        }
    }

    fn is_int(&self) -> bool {
        self.int().is_some()
    }

    fn is_float(&self) -> bool {
        self.float().is_some()
    }

    fn is_bool(&self) -> bool {
        self.bool().is_some()
    }

    /// Gives every element of the list that it is; false if it is none. `[1, 2]` and `1,2` are both lists in text.
    pub fn elements(&self, Separator(between): Separator, mut take: impl FnMut(Cell)) -> bool {
        match self {
            Self::Null => true,
            Self::Json(Value::Array(values)) => {
                values.iter().for_each(|value| take(Cell::Json(value)));
                true
            }
            Self::Json(_) => false,
            Self::Text(text) => {
                let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
                let elements = inner.split(between).map(|element| element.trim().trim_matches(['\'', '"']));
                elements.filter(|element| !element.is_empty()).for_each(|element| take(Cell::Text(element)));
                true
            }
        }
    }

    fn all(&self, between: Separator, fits: impl Fn(&Cell) -> bool) -> bool {
        let mut all = true;
        self.elements(between, |element| all &= fits(&element)) && all
    }
}

/// Kinds of columns, guessed while rows go by.
#[derive(Debug, Default)]
pub(super) struct Guesses {
    columns: Vec<(String, Guess)>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
enum Guess {
    /// Nothing was seen but nulls.
    #[default]
    Unknown,
    Is(Kind),
}

impl Guesses {
    /// A column that the file has.
    pub fn name(&mut self, name: &str) {
        self.guess(name);
    }

    fn guess(&mut self, name: &str) -> &mut Guess {
        let index = self.columns.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            self.columns.push((name.to_string(), Guess::Unknown));
            self.columns.len() - 1
        });
        &mut self.columns[index].1
    }

    /// A value of it.
    pub fn see(&mut self, name: &str, cell: &Cell) {
        let guess = self.guess(name);
        if let Some(kind) = of_cell(cell) {
            *guess = Guess::Is(match *guess {
                Guess::Unknown => kind,
                Guess::Is(known) => both(known, kind),
            });
        }
    }

    /// Names so far.
    pub fn names(&self) -> Vec<&String> {
        self.columns.iter().map(|(name, _)| name).collect()
    }

    /// The guesses, in the order of the file; what was never seen is text.
    pub fn finish(self) -> impl Iterator<Item = (String, Kind)> {
        self.columns.into_iter().map(|(name, guess)| match guess {
            Guess::Unknown => (name, Kind::Text),
            Guess::Is(kind) => (name, kind),
        })
    }
}

/// The narrowest kind of one value; none of a null.
fn of_cell(cell: &Cell) -> Option<Kind> {
    const BETWEEN: Separator = Separator(',');
    Some(match cell {
        Cell::Null => return None,
        Cell::Text(text) if is_code(text) => Kind::Text,
        Cell::Json(Value::Array(values)) => {
            let kinds = values.iter().filter_map(|value| of_cell(&Cell::Json(value)));
            match kinds.reduce(both)? {
                Kind::Int => Kind::Ints(BETWEEN),
                Kind::Float => Kind::Floats(BETWEEN),
                _ => Kind::Texts(BETWEEN),
            }
        }
        cell if cell.is_int() => Kind::Int,
        cell if cell.is_float() => Kind::Float,
        cell if cell.is_bool() => Kind::Bool,
        _ => Kind::Text,
    })
}

/// Digits that are a name rather than a number: `00123`, or more than 64 bits hold.
fn is_code(text: &str) -> bool {
    let digits = text.trim();
    let whole = digits.len() > 1 && digits.bytes().all(|byte| byte.is_ascii_digit());
    whole && (digits.starts_with('0') || digits.parse::<i64>().is_err())
}

/// The narrowest kind of values of two kinds.
fn both(a: Kind, b: Kind) -> Kind {
    use Kind::{Float, Floats, Int, Ints, Texts};
    match (a, b) {
        _ if a == b => a,
        (Int, Float) | (Float, Int) => Float,
        (Ints(between), Floats(_)) | (Floats(between), Ints(_)) => Floats(between),
        (Ints(between) | Floats(between), Texts(_)) | (Texts(between), Ints(_) | Floats(_)) => Texts(between),
        _ => Kind::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guessed(texts: &[&str]) -> Kind {
        let mut guesses = Guesses::default();
        texts.iter().for_each(|text| guesses.see("x", &if text.is_empty() { Cell::Null } else { Cell::Text(text) }));
        guesses.finish().next().unwrap().1
    }

    #[test]
    fn kinds_are_the_narrowest_that_hold_all() {
        assert_eq!(guessed(&["1", "", "-7"]), Kind::Int);
        assert_eq!(guessed(&["1", "2.5", "1e3"]), Kind::Float);
        assert_eq!(guessed(&["1", "Rome"]), Kind::Text);
        assert_eq!(guessed(&["true", "False"]), Kind::Bool);
        assert_eq!(guessed(&["true", "1"]), Kind::Text);
        assert_eq!(guessed(&["00123", "17"]), Kind::Text);
        assert_eq!(guessed(&["18446744073709551615"]), Kind::Text);
        assert_eq!(guessed(&["", ""]), Kind::Text);
    }

    #[test]
    fn kinds_are_read_with_their_separator() {
        assert_eq!(Kind::parse("int"), Some(Kind::Int));
        assert_eq!(Kind::parse("ints|"), Some(Kind::Ints(Separator('|'))));
        assert_eq!(Kind::parse("texts"), Some(Kind::Texts(Separator(','))));
        assert_eq!([Kind::parse("int|"), Kind::parse("ints||"), Kind::parse("number")], [None; 3]);
    }

    #[test]
    fn lists_have_brackets_or_not() {
        for text in ["1|2", "[1|2]", "1| 2|"] {
            let mut found = Vec::new();
            assert!(Cell::Text(text).elements(Separator('|'), |element| found.push(element.int())));
            assert_eq!(found, [Some(1), Some(2)], "{text}");
        }
        assert!(Kind::Ints(Separator(',')).check(&Cell::Text("1,x")).is_err());
    }
}
