use super::*;
use std::path::Path;

const JOB: &str = "name: demo\ndata: {train: log}\nfeatures: [{name: item, kind: categorical, dim: 4}]\n\
                   tasks: [{name: click, label: click, kind: binary, weight: 1.0}, {name: buy, label: buy, kind: binary, weight: 0.5}]\n\
                   model: {kind: mmoe, experts: 3}\nbalance: {kind: cagrad, c: 0.4}\n";

/// A run folder, with a line of every event and one that is cut.
fn run(parent: &Path, name: &str) -> PathBuf {
    let folder = parent.join(name);
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("job.yaml"), JOB).unwrap();
    let mut lines = vec![
        r#"{"event":"start","job":"demo","step":0,"total_steps":3,"epochs":1,"ranks":2,"threads":1,"rows":300,"backend":"MPI",
            "environment":{"command":["tandem","train","<job>.yaml"],"cpus":4}}"#
            .replace('\n', ""),
    ];
    for step in 1..=3 {
        lines.push(format!(
            r#"{{"event":"step","step":{step},"samples_per_s":{step}000,"losses":{{"click":0.{step},"buy":0.5}},
               "weights":{{"click":0.7,"buy":0.3}},"cosines":[[1.0,-0.25],[-0.25,1.0]],"scope":"shared","table_rows":{{"item":{step}0}}}}"#
        ).replace('\n', ""));
    }
    lines.push(
        r#"{"event":"eval","step":3,"split":"valid","tasks":{"click":{"auc":0.75,"rows":100,"positives":20},"buy":{"auc":null,"rows":0}},
            "curves":{"click":{"roc":[[0.0,0.0],[0.5,0.9],[1.0,1.0]],"calibration":[{"predicted":0.1,"observed":0.12,"rows":60},{"predicted":0.4,"observed":0.41,"rows":40}],"gauc":[0,3,9]}}}"#
            .replace('\n', ""),
    );
    lines.push(r#"{"event":"end","step":3,"reason":"done","seconds":12.5}"#.to_string());
    lines.push(r#"{"event":"resources","step":3,"ranks":2,"wall_s":{"mean":10.0,"max":10.0},"stages":[{"stage":"forward","seconds":{"mean":4.0,"max":4.0},"by_rank":[4.0,4.0],"calls":3}],"tables":[{"name":"item","rows":30,"dim":4,"bytes":2048,"hottest":[{"id":"17","rows":40}]}]}"#.to_string());
    lines.push(r#"{"event":"step","st"#.to_string());
    std::fs::write(folder.join("metrics.jsonl"), lines.join("\n")).unwrap();
    folder
}

#[test]
fn the_page_holds_all_that_the_log_says_and_asks_the_network_for_nothing() {
    let place = tempfile::tempdir().unwrap();
    let page = page(&[run(place.path(), "first")]).unwrap();
    for words in [
        "first",
        "click · ROC",
        "click · calibration",
        "click · AUC of the groups",
        "buy · loss in training",
        "weight of each task",
        "rows of the tables",
        "Where the time went",
        "Most frequent ids",
        "cagrad",
        "20.0 %",
        "--v:-0.25",
    ] {
        assert!(page.contains(words), "no {words:?}");
    }
    assert!(page.contains("tandem train &lt;job&gt;.yaml") && !page.contains("<job>"), "text of the log is no HTML");
    for reference in ["src=", "@import", "url(", "<link"] {
        assert!(!page.contains(reference), "{reference}");
    }
}

#[test]
fn several_runs_stand_beside_each_other() {
    let place = tempfile::tempdir().unwrap();
    let (first, second) = (run(place.path(), "first"), run(place.path(), "second"));
    std::fs::write(second.join("job.yaml"), JOB.replace("c: 0.4", "c: 0.9")).unwrap();
    let page = page(&[first, second]).unwrap();
    assert!(page.contains("<h1>2 runs</h1>") && page.contains("<th>balance.c</th>"));
    assert!(page.contains(r#""labels":["first","second"]"#));
}

#[test]
fn a_run_that_has_just_begun_has_a_page() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("metrics.jsonl"), "{\"event\":\"start\",\"job\":\"demo\"}\n").unwrap();
    assert!(page(&[place.path().to_path_buf()]).unwrap().contains("unfinished"));
}

#[test]
fn a_folder_without_a_run_is_named() {
    let place = tempfile::tempdir().unwrap();
    let error = page(&[place.path().join("nowhere")]).unwrap_err().to_string();
    assert!(error.contains("nowhere/metrics.jsonl") && error.contains("tandem train"), "{error}");
    assert_eq!(page(&[]).unwrap_err().exit_code(), 2);
}
