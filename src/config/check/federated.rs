//! Federated training: who the clients are, and numbers in their ranges.

use super::{at_least_one, unique_names, wrong};
use crate::config::Every;
use crate::config::job::{Federated, Job, Method, Part, Privacy, SharedNorm};
use crate::error::Result;

/// Checks `federated:`, if there is one.
pub(super) fn check(job: &Job) -> Result<()> {
    let Some(federated) = &job.federated else { return Ok(()) };
    if !job.reproducible.is_off() {
        return Err(wrong("reproducible", "clients are not trained on virtual ranks")
            .fix("leave it out: with a rank or less for each client, the number of ranks changes no bit anyway"));
    }
    clients(federated)?;
    if federated.clients.is_empty() && job.data.scenario.is_none() {
        return Err(wrong("federated.clients", "there are no clients")
            .fix("list them, or name a column in `data.scenario`: each of its values is a client"));
    }
    at_least_one("federated.rounds", federated.rounds)?;
    if federated.local == Every::Never {
        return Err(wrong("federated.local", "a round without training changes nothing").fix("use `1 epoch`"));
    }
    for (key, value) in [("mu", federated.mu.unwrap_or(0.0)), ("c", federated.c), ("share_lr", federated.share_lr)] {
        if !(value >= 0.0 && value.is_finite()) {
            return Err(wrong(format!("federated.{key}"), format!("expected a number ≥ 0, found {value}")));
        }
    }
    if !(0.0..=1.0).contains(&federated.share_init) {
        return Err(wrong("federated.share_init", "a share is a number from 0 to 1"));
    }
    if job.checkpoint.copy_to.is_some() {
        return Err(wrong("checkpoint.copy_to", "the checkpoints of a federation's clients are not copied")
            .fix("leave it out, and copy the run folder when the run has ended"));
    }
    parts(job, federated)?;
    federated.privacy.map_or(Ok(()), |privacy| check_privacy(federated, privacy))
}

fn clients(federated: &Federated) -> Result<()> {
    unique_names("federated.clients", "client", federated.clients.iter().map(|client| client.name.as_str()))?;
    if let Some(i) = federated.clients.iter().position(|client| client.root.trim().is_empty()) {
        return Err(wrong(format!("federated.clients[{i}].root"), "the folder is empty"));
    }
    if federated.clients.len() == 1 {
        return Err(wrong("federated.clients", "a client that is alone has nobody to learn from")
            .fix("list two or more, or remove `federated` to train one model"));
    }
    Ok(())
}

fn parts(job: &Job, federated: &Federated) -> Result<()> {
    if federated.method != Method::PfMsmtrec {
        return Ok(());
    }
    if job.model.kind != "pf_msmtrec" {
        return Err(wrong(
            "federated.method",
            format!("`pf_msmtrec` shares parts of experts, and `{}` has none", job.model.kind),
        )
        .fix("use `model: {kind: pf_msmtrec}`, or another method, such as `fedhca2`"));
    }
    let twice = |part: &Part| federated.parts.iter().filter(|other| *other == part).count() > 1;
    if federated.parts.iter().any(twice) {
        return Err(wrong("federated.parts", "a part is named twice"));
    }
    Ok(())
}

fn check_privacy(federated: &Federated, privacy: Privacy) -> Result<()> {
    let Privacy { clip, noise, delta, .. } = privacy;
    for (key, value, fine) in [
        ("clip", clip, clip > 0.0 && clip.is_finite()),
        ("noise", noise, noise >= 0.0 && noise.is_finite()),
        ("delta", delta, delta > 0.0 && delta < 1.0),
    ] {
        if !fine {
            let range = if key == "delta" { "between 0 and 1" } else { "above 0, and `noise` may be 0" };
            return Err(wrong(format!("federated.privacy.{key}"), format!("expected a number {range}, found {value}")));
        }
    }
    let norm = federated.batch_norm.unwrap_or(federated.method.default_batch_norm());
    let what = match (federated.embeddings, norm) {
        (true, _) => "rows of tables, whose ids say what a client has seen",
        (false, SharedNorm::StatsAvg | SharedNorm::Average) => {
            "running moments of batch norm, which are statistics of its rows"
        }
        (false, SharedNorm::Local) => return Ok(()),
    };
    let (key, fix) = match federated.embeddings {
        true => ("embeddings", "set `federated.embeddings: false`"),
        false => ("batch_norm", "set `federated.batch_norm: local`"),
    };
    Err(wrong(format!("federated.{key}"), format!("with `privacy` a client must not send {what}")).fix(fix))
}

#[cfg(test)]
mod tests {
    use crate::config::from_text;
    use std::path::Path;

    fn load(federated: &str) -> crate::Result<crate::config::Loaded> {
        let text = format!(
            "name: x\ndata: {{train: a}}\nfeatures: [{{name: user, kind: categorical, dim: 4}}]\n\
             tasks: [{{name: click, label: click}}]\nmodel: {{kind: pf_msmtrec}}\nfederated: {federated}\n"
        );
        from_text(&text, Path::new("job.yaml"), &[])
    }

    #[test]
    fn what_cannot_be_meant_names_its_key() {
        let two = "clients: [{name: a, root: a}, {name: b, root: b}]";
        for (more, key) in [
            ("clients: [{name: a, root: a}]", "federated.clients"),
            ("clients: [{name: a, root: a}, {name: a, root: b}]", "federated.clients[1].name"),
            ("clients: []", "federated.clients"),
            ("rounds: 0", "federated.rounds"),
            ("local: never", "federated.local"),
            ("mu: -1", "federated.mu"),
            ("alpha: often", "federated.alpha"),
            ("beta: 1.5", "federated.beta"),
            ("parts: [global, global]", "federated.parts"),
            ("method: fedagv", "federated.method"),
            ("privacy: {clip: 0}", "federated.privacy.clip"),
            ("privacy: {clip: 1, delta: 1}", "federated.privacy.delta"),
            ("privacy: {clip: 1}, embeddings: true", "federated.embeddings"),
            ("privacy: {clip: 1}, method: fedavg", "federated.batch_norm"),
        ] {
            let clients = if more.starts_with("clients") { String::new() } else { format!("{two}, ") };
            let error = load(&format!("{{{clients}{more}}}")).unwrap_err();
            assert_eq!(error.place("key"), Some(key), "{more}: {error}");
        }
        let error = load(&format!("{{{two}}}\nreproducible: true")).unwrap_err();
        assert_eq!(error.place("key"), Some("reproducible"), "{error}");
    }

    #[test]
    fn defaults_depend_on_the_method() {
        let federated = |more: &str| {
            let clients = "clients: [{name: a, root: a}, {name: b, root: b}]";
            load(&format!("{{{clients}, {more}}}")).unwrap().job.federated.clone().unwrap()
        };
        let job = federated("alpha: 0.5");
        assert_eq!((job.mu, job.alpha), (Some(1e-3), crate::config::job::Share::Fixed(0.5)));
        assert_eq!(federated("method: fedprox").mu, Some(0.01));
        let text = serde_yaml::to_string(&job).unwrap();
        assert_eq!(serde_yaml::from_str::<crate::config::job::Federated>(&text).unwrap(), job, "{text}");
    }
}
