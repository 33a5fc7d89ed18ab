//! One column of `field ^B id ^C value` entries, separated by ^A, as Ali-CCP's `feature_list`: a column a field.

use super::Column;
use super::builder::Builder;
use super::kind::{Kind, Separator};
use super::source::Cell;
use crate::error::{Error, Result};
use serde_json::Value;

const ENTRIES: char = '\u{1}';
const FIELD: char = '\u{2}';
const VALUE: char = '\u{3}';

/// A column that becomes columns of ids: field `101` becomes `f101`. Entries of other fields are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explode {
    /// The column.
    pub column: String,
    /// Names of fields, and whether a row may have several ids of it.
    pub fields: Vec<(String, bool)>,
}

impl Explode {
    /// Reads `feature_list=101,109_14*`: after a star the column holds lists.
    pub fn parse(text: &str) -> Option<Self> {
        let (column, fields) = text.split_once('=')?;
        let field = |field: &str| match field.strip_suffix('*') {
            Some(name) => (name.to_string(), true),
            None => (field.to_string(), false),
        };
        let fields: Vec<(String, bool)> = fields.split(',').map(field).collect();
        let named = !column.is_empty() && fields.iter().all(|(name, _)| !name.is_empty());
        named.then(|| Self { column: column.to_string(), fields })
    }

    pub(super) fn columns(&self) -> Vec<Column> {
        let column = |(name, many): &(String, bool)| Column { name: format!("f{name}"), kind: kind(*many) };
        self.fields.iter().map(column).collect()
    }

    pub(super) fn builders(&self) -> Vec<Builder> {
        self.fields.iter().map(|(_, many)| Builder::new(kind(*many))).collect()
    }

    /// Appends the ids of one row, or nothing if they cannot be read.
    pub(super) fn append(&self, cell: Option<Cell>, builders: &mut [Builder]) -> Result<()> {
        let text = cell.as_ref().map(Cell::text).unwrap_or_default();
        let mut ids: Vec<Vec<Value>> = vec![Vec::new(); self.fields.len()];
        for entry in text.split(ENTRIES).filter(|entry| !entry.is_empty()) {
            let parts = entry.split_once(FIELD).and_then(|(field, rest)| Some((field, rest.split(VALUE).next()?)));
            let read = parts.and_then(|(field, id)| Some((field, id.parse::<i64>().ok()?)));
            let (field, id) = read.ok_or_else(|| {
                let shown: String = entry.chars().take(40).collect();
                Error::data(format!("`{}` is no entry of a field and its id", shown.escape_debug()))
                    .at("column", &self.column)
                    .fix("entries are `field ^B id ^C value`, with ^A between them")
            })?;
            if let Some(index) = self.fields.iter().position(|(name, _)| name == field) {
                ids[index].push(id.into());
            }
        }
        for ((ids, builder), (_, many)) in ids.into_iter().zip(builders).zip(&self.fields) {
            match ids.first() {
                None => builder.append(&Cell::Null),
                Some(first) if !*many => builder.append(&Cell::Json(first)),
                Some(_) => builder.append(&Cell::Json(&Value::Array(ids))),
            }
        }
        Ok(())
    }
}

fn kind(many: bool) -> Kind {
    if many { Kind::Ints(Separator(',')) } else { Kind::Int }
}
