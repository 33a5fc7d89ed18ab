//! Where the time of a run went, by stage and rank, and what its tables hold.

use super::run_log::RunLog;
use serde::Serialize;
use serde_json::Value;

/// Time and tables of one run, from its newest `resources` event.
#[derive(Debug, Serialize)]
pub(super) struct Resources {
    name: String,
    wall_s: f64,
    ranks: Value,
    stages: Vec<Stage>,
    /// Each rank, or where there are too many of them their mean alone.
    bars: Vec<Bar>,
    comm_s: f64,
    sent_bytes: f64,
    tables: Vec<Table>,
}

#[derive(Debug, Serialize)]
struct Stage {
    name: String,
    mean_s: f64,
    max_s: f64,
    share: f64,
    calls: Value,
}

#[derive(Debug, Serialize)]
struct Bar {
    label: String,
    /// Number of a stage, its seconds and share of the whole time.
    parts: Vec<(usize, f64, f64)>,
}

#[derive(Debug, Serialize)]
struct Table {
    name: String,
    rows: Value,
    dim: Value,
    bytes: Value,
    /// Id, its training rows, and these as a share of the most frequent id's.
    hottest: Vec<(String, f64, f64)>,
}

/// What the log of a run says; empty before its first checkpoint.
pub(super) fn of_run(run: &RunLog) -> Resources {
    let event = &run.resources;
    let wall_s = event["wall_s"]["mean"].as_f64().unwrap_or(0.0);
    let rows: Vec<&Value> = event["stages"].as_array().into_iter().flatten().collect();
    let booked: f64 = rows.iter().filter_map(|row| row["seconds"]["mean"].as_f64()).sum();
    let share = |seconds: f64| seconds / wall_s.max(f64::MIN_POSITIVE);
    let mut stages: Vec<Stage> = rows
        .iter()
        .map(|row| Stage {
            name: row["stage"].as_str().unwrap_or("?").replace('_', " "),
            mean_s: row["seconds"]["mean"].as_f64().unwrap_or(0.0),
            max_s: row["seconds"]["max"].as_f64().unwrap_or(0.0),
            share: share(row["seconds"]["mean"].as_f64().unwrap_or(0.0)),
            calls: row["calls"].clone(),
        })
        .collect();
    if wall_s > 0.0 {
        let other = (wall_s - booked).max(0.0);
        let name = "other".to_string();
        stages.push(Stage { name, mean_s: other, max_s: other, share: share(other), calls: Value::Null });
    }
    Resources {
        name: run.name.clone(),
        wall_s,
        ranks: event["ranks"].clone(),
        bars: bars(&rows, &stages, wall_s),
        stages,
        comm_s: event["comm_s"]["mean"].as_f64().unwrap_or(0.0),
        sent_bytes: event["sent_bytes"]["mean"].as_f64().unwrap_or(0.0),
        tables: event["tables"].as_array().into_iter().flatten().map(table).collect(),
    }
}

fn bars(rows: &[&Value], stages: &[Stage], wall_s: f64) -> Vec<Bar> {
    let part = |(stage, seconds): (usize, f64)| (stage, seconds, seconds / wall_s.max(f64::MIN_POSITIVE));
    let ranks = rows.first().and_then(|row| row["by_rank"].as_array()).map_or(0, Vec::len);
    if ranks == 0 {
        let parts = stages.iter().map(|stage| stage.mean_s).enumerate().map(part).collect();
        return if stages.is_empty() { Vec::new() } else { vec![Bar { label: "mean".to_string(), parts }] };
    }
    let of_rank = |rank: usize| {
        let seconds = rows.iter().map(|row| row["by_rank"][rank].as_f64().unwrap_or(0.0));
        let other = (wall_s - seconds.clone().sum::<f64>()).max(0.0);
        Bar { label: format!("rank {rank}"), parts: seconds.chain([other]).enumerate().map(part).collect() }
    };
    (0..ranks).map(of_rank).collect()
}

fn table(table: &Value) -> Table {
    let hottest: Vec<(String, f64)> = table["hottest"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|entry| Some((entry["id"].as_str()?.to_string(), entry["rows"].as_f64()?)))
        .collect();
    let most = hottest.first().map_or(1.0, |(_, rows)| rows.max(1.0));
    Table {
        name: table["name"].as_str().unwrap_or("?").to_string(),
        rows: table["rows"].clone(),
        dim: table["dim"].clone(),
        bytes: table["bytes"].clone(),
        hottest: hottest.into_iter().map(|(id, rows)| (id, rows, rows / most)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_no_stage_takes_is_other_on_every_rank() {
        let event = json!({"ranks": 2, "wall_s": {"mean": 10.0, "max": 10.0}, "stages": [
            {"stage": "decode_wait", "seconds": {"mean": 2.0, "max": 3.0}, "by_rank": [1.0, 3.0], "calls": 7}],
            "tables": [{"name": "item", "rows": 3, "dim": 4, "bytes": 96, "hottest": [{"id": "17", "rows": 40}, {"id": "9", "rows": 10}]}]});
        let run = RunLog { resources: event, ..RunLog::default() };
        let resources = of_run(&run);
        let names: Vec<_> = resources.stages.iter().map(|stage| (stage.name.as_str(), stage.share)).collect();
        assert_eq!(names, [("decode wait", 0.2), ("other", 0.8)]);
        assert_eq!(resources.bars[1].parts, [(0, 3.0, 0.3), (1, 7.0, 0.7)]);
        assert_eq!(resources.tables[0].hottest[1], ("9".to_string(), 10.0, 0.25));
        assert!(of_run(&RunLog::default()).bars.is_empty());
    }
}
