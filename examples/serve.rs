//! Scores rows with a bundle of `tandem export`: `serve BUNDLE < rows`, a JSON object a line; see docs/serving.md.

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{ListAccessor, RowAccessor};
use serde_json::Value;
use std::{collections::HashMap, fs::File, io::BufRead};
use tract_onnx::prelude::*;

fn id_of(value: &Value) -> u64 {
    value.as_str().map_or_else(|| value.as_i64().unwrap_or(0) as u64, |s| xxhash_rust::xxh3::xxh3_64(s.as_bytes()))
}

fn main() -> anyhow::Result<()> {
    let bundle = std::env::args().nth(1).ok_or_else(|| anyhow::anyhow!("usage: serve BUNDLE < rows"))?;
    let schema: Value = serde_json::from_reader(File::open(format!("{bundle}/schema.json"))?)?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let mut tables = HashMap::new();
    for table in list(&schema["tables"]) {
        let file = File::open(format!("{bundle}/{}", text(&table["files"]["parquet"])))?;
        let mut vectors: HashMap<u64, Vec<f32>> = HashMap::new();
        for row in SerializedFileReader::new(file)?.get_row_iter(None)? {
            let row = row?;
            let vector = row.get_list(1)?;
            vectors
                .insert(row.get_ulong(0)?, (0..vector.len()).map(|i| vector.get_float(i)).collect::<Result<_, _>>()?);
        }
        tables.insert(text(&table["name"]), vectors);
    }
    let features: HashMap<String, Value> = list(&schema["ids"]).into_iter().map(|f| (text(&f["name"]), f)).collect();
    let mut model = tract_onnx::onnx().model_for_path(format!("{bundle}/{}", text(&schema["onnx"]["file"])))?;
    for (i, input) in list(&schema["onnx"]["inputs"]).iter().enumerate() {
        model.set_input_fact(i, f32::fact([1, input["dims"][0].as_u64().unwrap_or(0) as usize]).into())?;
    }
    let model = model.into_optimized()?.into_runnable()?;
    for line in std::io::stdin().lock().lines() {
        let row: Value = serde_json::from_str(&line?)?;
        let (mut pooled, mut dense) = (Vec::new(), Vec::new());
        for part in list(&schema["pooled"]) {
            let source = &features[&text(&part["feature"])];
            let found = &row[text(&source["source"]["column"])];
            let ids = found.as_array().cloned().unwrap_or_else(|| vec![found.clone()]);
            let keep = source["source"]["max_len"].as_u64().map_or(ids.len(), |n| ids.len().min(n as usize));
            let ids = &ids[ids.len() - keep..];
            let mut sum = vec![0f32; part["width"].as_u64().unwrap_or(0) as usize];
            for vector in ids.iter().filter_map(|id| tables[&text(&source["table"])].get(&id_of(id))) {
                sum.iter_mut().zip(vector).for_each(|(sum, x)| *sum += x / ids.len() as f32);
            }
            pooled.extend(sum);
        }
        for number in list(&schema["dense"]) {
            let of = |key: &str| number["transform"][key].as_f64().unwrap_or(0.0);
            let x = row[text(&number["column"])].as_f64();
            let null = number["null"].as_f64().unwrap_or(0.0);
            dense.push(x.map_or(null, |x| (x - of("mean")) / of("std")) as f32);
        }
        let input = |values: Vec<f32>| Tensor::from_shape(&[1, values.len()], &values).map(TValue::from);
        let outputs = model.run(tvec!(input(pooled)?, input(dense)?))?;
        println!("{}", outputs[0].try_as_plain_ram()?.as_slice::<f32>()?[0]);
    }
    Ok(())
}
