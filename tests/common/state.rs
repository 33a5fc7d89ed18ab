//! What a checkpoint holds, read without tandem's own loader, by name and id instead of by file.

use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// A row of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Values, then the optimizer's state.
    pub floats: Vec<f32>,
    pub count: u32,
    pub last_step: u32,
}

/// Everything that training changes.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Parameters, buffers and moments, by name.
    pub dense: BTreeMap<String, Vec<f32>>,
    /// Rows by table and id.
    pub rows: BTreeMap<(String, u64), Row>,
    /// Sightings of ids that are not admitted yet, by table and id.
    pub candidates: BTreeMap<(String, u64), u32>,
    /// The class of every training row, if the model has such.
    pub row_classes: Vec<u8>,
    /// The balancing method's numbers.
    pub balance: Vec<f64>,
    /// Steps taken, and the cursor.
    pub position: (Value, Value),
}

impl State {
    /// Reads the checkpoint folder `path`.
    pub fn read(path: &Path) -> Self {
        let manifest: Value = serde_json::from_slice(&read(&path.join("manifest.json"))).expect("a manifest");
        let balance = manifest["balance"].as_array().expect("numbers").iter();
        let mut state = Self {
            dense: BTreeMap::new(),
            rows: BTreeMap::new(),
            candidates: BTreeMap::new(),
            row_classes: Vec::new(),
            balance: balance.map(|x| x.as_f64().expect("a number")).collect(),
            position: (manifest["step"].clone(), manifest["cursor"].clone()),
        };
        for file in manifest["files"].as_array().expect("files") {
            let bytes = read(&path.join(file["name"].as_str().expect("a name")));
            let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
            if file.get("buckets").is_none() {
                let (rows, names): (Vec<_>, Vec<_>) =
                    tensors.names().into_iter().partition(|name| name.starts_with("rows."));
                state.dense = names.into_iter().map(|name| (name.to_string(), numbers(&tensors, name))).collect();
                if rows.contains(&"rows.class") {
                    state.row_classes = numbers(&tensors, "rows.class");
                }
            } else {
                for table in manifest["tables"].as_array().expect("tables") {
                    state.add_rows(&tensors, table["name"].as_str().expect("a name"));
                }
            }
        }
        state
    }

    fn add_rows(&mut self, tensors: &SafeTensors, table: &str) {
        let part = |part: &str| format!("{table}.{part}");
        let ids: Vec<u64> = numbers(tensors, &part("ids"));
        let (values, state): (Vec<f32>, Vec<f32>) =
            (numbers(tensors, &part("values")), numbers(tensors, &part("state")));
        let counts: Vec<u32> = numbers(tensors, &part("counts"));
        let last_steps: Vec<u32> = numbers(tensors, &part("last_steps"));
        let of =
            |floats: &[f32], row: usize| floats[row * floats.len() / ids.len()..][..floats.len() / ids.len()].to_vec();
        for (row, &id) in ids.iter().enumerate() {
            let floats = [of(&values, row), of(&state, row)].concat();
            let row = Row { floats, count: counts[row], last_step: last_steps[row] };
            assert!(self.rows.insert((table.to_string(), id), row).is_none(), "id {id} of {table} is there twice");
        }
        let waiting: Vec<u64> = numbers(tensors, &part("candidate_ids"));
        let counts: Vec<u32> = numbers(tensors, &part("candidate_counts"));
        self.candidates.extend(waiting.into_iter().map(|id| (table.to_string(), id)).zip(counts));
    }

    /// How often ids of `table` were seen, as far as the table still knows: dropped rows have taken their counts along.
    pub fn sightings(&self, table: &str) -> u64 {
        let rows = self.rows.iter().filter(|((name, _), _)| name == table).map(|(_, row)| u64::from(row.count));
        let waiting = self.candidates.iter().filter(|((name, _), _)| name == table).map(|(_, &count)| u64::from(count));
        rows.chain(waiting).sum()
    }

    /// Ids of `table` that wait for admission.
    pub fn waiting(&self, table: &str) -> usize {
        self.candidates.keys().filter(|(name, _)| name == table).count()
    }

    /// Asserts that `other` is the same training state: the same rows, counts and steps, and floats equal up to
    /// `tolerance`, relative above 1.
    pub fn assert_close(&self, other: &Self, tolerance: f64, what: &str) {
        let keys = |state: &Self| {
            let rows: Vec<_> = state.rows.iter().map(|(key, row)| (key.clone(), row.count, row.last_step)).collect();
            (state.dense.keys().cloned().collect::<Vec<_>>(), rows, state.candidates.clone(), state.position.clone())
        };
        assert_eq!(keys(self), keys(other), "{what}");
        for (name, values) in &self.dense {
            assert_all_close(values, &other.dense[name], tolerance, &format!("{what}: {name}"));
        }
        for (key, row) in &self.rows {
            assert_all_close(&row.floats, &other.rows[key].floats, tolerance, &format!("{what}: row {key:?}"));
        }
        let floats = |state: &Self| -> Vec<f32> { state.balance.iter().map(|&x| x as f32).collect() };
        assert_all_close(&floats(self), &floats(other), tolerance, &format!("{what}: the balancing method"));
    }
}

fn assert_all_close(a: &[f32], b: &[f32], tolerance: f64, what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (i, (&a, &b)) in a.iter().zip(b).enumerate() {
        let (a, b) = (f64::from(a), f64::from(b));
        assert!((a - b).abs() <= tolerance * a.abs().max(1.0), "{what}: number {i} is {a} and {b}");
    }
}

fn numbers<T: bytemuck::Pod>(tensors: &SafeTensors, name: &str) -> Vec<T> {
    bytemuck::pod_collect_to_vec(tensors.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}")).data())
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Asserts that two checkpoint folders have the same files with the same bytes.
pub fn assert_identical(a: &Path, b: &Path) {
    let names = |dir: &Path| {
        let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let mut names: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(a), names(b));
    for name in names(a) {
        let (left, right) = (read(&a.join(&name)), read(&b.join(&name)));
        if left != right && name == "manifest.json" {
            assert_eq!(String::from_utf8_lossy(&left), String::from_utf8_lossy(&right));
        }
        assert!(left == right, "{} differs between {} and {}", name.display(), a.display(), b.display());
    }
}
