//! What the multi-scenario architectures must pass beside what all must.

use super::*;

/// Builds `job` with so many scenarios.
fn with_scenarios(job: &str, scenarios: usize) -> Case {
    let spec = InputSpec { scenarios: (0..scenarios).map(|s| s.to_string()).collect(), ..spec() };
    let (mut job, mut store) = (component(job), ParamStore::new(5));
    let model = build(&mut job, &spec, &mut store).unwrap();
    Case { kind: job.kind, store, model }
}

fn fill(store: &ParamStore, index: usize, value: impl Fn(usize) -> f32) {
    let values: Vec<f32> = (0..store.range(index).len()).map(value).collect();
    store.load(index, &values).unwrap();
}

/// Gives the parameters that both models have by name and size the values of `from`; says how many.
fn copy(from: &ParamStore, to: &ParamStore) -> usize {
    let mut copied = 0;
    for (i, name) in from.names().iter().enumerate() {
        if let Some(j) = to.names().iter().position(|other| other == name) {
            let mut values = vec![0.0; from.range(i).len()];
            from.read(i, &mut values).unwrap();
            to.load(j, &values).unwrap();
            copied += 1;
        }
    }
    copied
}

/// Logits of every task, row after row, where each row has the scenario that `scenario` says.
fn logits(case: &Case, scenario: impl Fn(usize) -> u32) -> Vec<Vec<f64>> {
    let scenarios = (0..ROWS).map(scenario).collect();
    let input = Input { scenarios, ..whole_input(&leaves()) };
    case.model.forward(&input, &context(false, ROWS)).unwrap().logits.iter().map(numbers).collect()
}

fn assert_same(a: &[Vec<f64>], b: &[Vec<f64>], what: &str) {
    for (a, b) in a.iter().zip(b) {
        assert_close(a, b, 1e-5, what);
    }
}

const STAR: &str =
    "{kind: star, bottom: [6, 5], tower: [4], auxiliary: null, partitioned_norm: false, activation: tanh}";

#[test]
fn star_starts_as_the_shared_bottom_in_every_scenario() {
    let star = with_scenarios(STAR, 3);
    let plain = case(&component("{kind: shared_bottom, bottom: [6, 5], tower: [4], activation: tanh}"));
    assert_eq!(copy(&plain.store, &star.store), plain.store.names().len());
    assert_same(&logits(&star, |row| row as u32 % 4), &logits(&plain, |_| 0), "shared bottom");
}

#[test]
fn what_is_a_scenarios_own_in_star_moves_its_rows_only() {
    let star = with_scenarios(STAR, 3);
    let before = logits(&star, |row| row as u32 % 4);
    for (i, name) in star.store.names().iter().enumerate().filter(|(_, name)| name.contains("own_")) {
        // The parameters of scenario 1 of three.
        let len = star.store.range(i).len() / 3;
        let start = f32::from(u8::from(name.ends_with("own_weight")));
        fill(&star.store, i, |place| if place / len == 1 { start + 0.5 } else { start });
    }
    let after = logits(&star, |row| row as u32 % 4);
    for ((before, after), outputs) in before.iter().zip(&after).zip(spec().outputs) {
        for (row, (before, after)) in before.chunks(outputs).zip(after.chunks(outputs)).enumerate() {
            let moved = before.iter().zip(after).any(|(a, b)| (a - b).abs() > 1e-4);
            assert_eq!(moved, row % 4 == 1, "row {row}");
        }
    }
}

const PEPNET: &str = "{kind: pepnet, tower: [6, 4], personal: [user], gate: 5, activation: tanh}";

#[test]
fn pepnet_with_gates_of_one_is_the_plain_towers() {
    let gated = with_scenarios(PEPNET, 2);
    let plain = with_scenarios(&PEPNET.replace("gate: 5", "epnet: false, ppnet: false"), 2);
    assert_eq!(copy(&plain.store, &gated.store), plain.store.names().len());
    for (i, _) in gated.store.names().iter().enumerate().filter(|(_, name)| name.contains(".scores.")) {
        fill(&gated.store, i, |_| 0.0);
    }
    assert_same(&logits(&gated, |row| row as u32 % 3), &logits(&plain, |_| 0), "plain towers");
}

/// Without hidden layers a logit is W(g ⊙ e) + c. With the stop-gradient e moves it by W ⊙ g alone; through the gate it
/// would move it by more.
#[test]
fn no_gradient_goes_through_what_a_gate_reads_of_the_input() {
    let case = with_scenarios("{kind: pepnet, ppnet: false, tower: [], gate: 5, domain: [item]}", 2);
    let scenarios: Arc<[u32]> = (0..ROWS).map(|row| row as u32 % 3).collect();
    let leaves = leaves();
    let input = Input { scenarios: scenarios.clone(), ..whole_input(&leaves) };
    let output = case.model.forward(&input, &context(true, ROWS)).unwrap();
    let gradients = backward(&output, &[0], (0, ROWS));

    let plain = Plain::of(&case.store);
    let x = InputLayer::new(&spec(), "pepnet").unwrap().forward(&input, &context(true, ROWS)).unwrap();
    let x = x.to_dtype(DType::F64).unwrap().detach();
    let table = &plain.0["epnet.scenarios.embedding"];
    let table = Tensor::cat(&[table, &table.mean_keepdim(0).unwrap()], 0).unwrap();
    let index = Tensor::from_slice(&scenarios, ROWS, &Device::Cpu).unwrap();
    let read =
        Tensor::cat(&[table.index_select(&index, 0).unwrap(), x.narrow(1, 3, 2).unwrap(), x.clone()], 1).unwrap();
    let hidden = plain.linear(&read, "epnet.gate.hidden").relu().unwrap();
    let gate = (plain.linear(&hidden, "epnet.gate.scores").neg().unwrap().exp().unwrap() + 1.0).unwrap();
    let gate = (gate.recip().unwrap() * 2.0).unwrap();
    let gated = (&gate * &x).unwrap();
    assert_close(&numbers(&output.logits[0]), &numbers(&plain.linear(&gated, "towers.click.logits")), 1e-5, "logit");

    let weight = &plain.0["towers.click.logits.weight"];
    let cotangent = cotangents()[0].to_dtype(DType::F64).unwrap();
    let of_gated = cotangent.matmul(&weight.t().unwrap()).unwrap();
    let stopped = (&of_gated * &gate).unwrap();
    // The first field is neither in the gate's domain nor a query of the sequence.
    let user = |t: &Tensor| numbers(&t.narrow(1, 0, 3).unwrap().contiguous().unwrap());
    assert_close(&user(gradients.get(&leaves[0]).unwrap()), &user(&stopped), 1e-5, "gradient");
}

/// The gates' own parameters, and those of the towers behind them, are not stopped. (What a gate reads of the input is:
/// so PEPNet's other gradients are no derivatives, and the test of all architectures leaves it out.)
#[test]
fn gradients_of_pepnets_gates_match_finite_differences() {
    for (job, moved) in [
        (PEPNET.to_string(), "towers."),
        ("{kind: pepnet, ppnet: false, tower: [4], gate: 5, domain: [item], activation: tanh}".to_string(), ""),
    ] {
        let case = with_scenarios(&job, 2);
        // A difference over the kink of a gate's hidden unit is no derivative: all units stand far on one side of it.
        let hidden = |name: &str| name.contains("gate") && name.ends_with("hidden.bias");
        for (i, _) in case.store.names().iter().enumerate().filter(|(_, name)| hidden(name)) {
            fill(&case.store, i, |unit| if unit % 3 == 2 { -3.0 } else { 3.0 });
        }
        let input = Input { scenarios: (0..ROWS).map(|row| row as u32 % 3).collect(), ..whole_input(&leaves()) };
        let forward = || case.model.forward(&input, &context(true, ROWS)).unwrap();
        let gradients = backward(&forward(), &[0, 1, 2], (0, ROWS));
        let names = case.store.names().iter().enumerate().filter(|(_, name)| name.starts_with(moved));
        let chosen: Vec<usize> = names.map(|(i, _)| i).collect();
        let expected: Vec<Vec<f64>> =
            chosen.iter().map(|&i| numbers(gradients.get(&case.store.vars()[i]).unwrap())).collect();
        check_directions(&expected, |argument, direction, step| {
            let index = chosen[argument];
            let mut start = vec![0.0; direction.len()];
            case.store.read(index, &mut start).unwrap();
            fill(&case.store, index, |i| (f64::from(start[i]) + step * direction[i]) as f32);
            let pairs = forward().logits.into_iter().zip(cotangents());
            let value = pairs.map(|(z, c)| numbers(&(z * c).unwrap()).iter().sum::<f64>()).sum();
            case.store.load(index, &start).unwrap();
            value
        });
    }
}

#[test]
fn m2m_without_meta_weights_is_the_mean_of_the_experts() {
    let job = "{kind: m2m, experts: 3, expert: [5, 4], attention: 3, knowledge: [3], tower_layers: 2}";
    let case = with_scenarios(job, 2);
    for (i, name) in case.store.names().iter().enumerate() {
        if name.starts_with("attention") || name.contains(".tower.") || name.contains("attention_bias") {
            fill(&case.store, i, |_| 0.0);
        }
    }
    let found = logits(&case, |row| row as u32 % 3);
    let plain = Plain::of(&case.store);
    let at = context(false, ROWS);
    let x = InputLayer::new(&spec(), "m2m").unwrap().forward(&whole_input(&leaves()), &at).unwrap();
    let mut h = x.to_dtype(DType::F64).unwrap();
    // The first layers stand side by side, the second ones are stacked.
    let (first, second) = (&plain.0["experts.0.weight"], &plain.0["experts.1.weight"]);
    h = h.matmul(first).unwrap().broadcast_add(&plain.0["experts.0.bias"]).unwrap().relu().unwrap();
    let bias = plain.0["experts.1.bias"].reshape((3, 4)).unwrap();
    let expert = |e: usize| {
        let h = h.narrow(1, 5 * e, 5).unwrap().contiguous().unwrap();
        let z = h.matmul(&second.get(e).unwrap()).unwrap().broadcast_add(&bias.get(e).unwrap()).unwrap();
        (z.relu().unwrap() / 3.0).unwrap()
    };
    let mean = ((expert(0) + expert(1)).unwrap() + expert(2)).unwrap();
    for (found, task) in found.iter().zip(TASKS) {
        assert_close(found, &numbers(&plain.linear(&mean, &format!("tasks.{task}.logits"))), 1e-5, task);
    }
}

/// With one scenario the mean of the scenarios' embeddings is that one's, so "other" is the same; and more than one
/// are told apart.
#[test]
fn other_is_the_mean_scenario() {
    for job in [PEPNET, "{kind: m2m, experts: 2, expert: [4]}", "{kind: star, bottom: [6], tower: [4]}"] {
        let one = with_scenarios(job, 1);
        assert_same(&logits(&one, |_| 0), &logits(&one, |row| row as u32 % 2), job);
        let three = with_scenarios(job, 3);
        let embedding = three.store.names().iter().position(|name| name.ends_with("scenarios.embedding")).unwrap();
        let differ = |a: u32, b: u32| {
            let (a, b) = (logits(&three, |_| a), logits(&three, |_| b));
            a.iter().flatten().zip(b.iter().flatten()).any(|(a, b)| (a - b).abs() > 1e-5)
        };
        assert!(differ(0, 1) && differ(1, 2) && differ(2, 3), "{job}");
        // Alike but for the sign, two of them have a mean of zero, and the third is zero: "other" is the third.
        let width = three.store.range(embedding).len() / 3;
        fill(&three.store, embedding, |place| [0.3, -0.3, 0.0][place / width]);
        assert_same(&logits(&three, |_| 2), &logits(&three, |_| 3), job);
    }
}

#[test]
fn a_job_without_scenarios_is_told_what_is_missing() {
    for (job, part) in [
        ("{kind: star}", "name its column in `data.scenario`"),
        ("{kind: m2m}", "name its column in `data.scenario`"),
        ("{kind: pepnet}", "EPNet gates by scenario"),
    ] {
        let error = build(&mut component(job), &InputSpec { scenarios: Vec::new(), ..spec() }, &mut ParamStore::new(0));
        let message = error.err().unwrap().to_string();
        assert!(message.contains(part), "{job}: {message}");
    }
    let without = InputSpec { scenarios: Vec::new(), ..spec() };
    for job in ["{kind: pepnet, domain: [item]}", "{kind: pepnet, epnet: false}"] {
        build(&mut component(job), &without, &mut ParamStore::new(0)).unwrap();
    }
    for (job, key) in [
        ("{kind: pepnet, personal: [usr]}", "model.personal"),
        ("{kind: pepnet, domain: [history]}", "model.domain"),
        ("{kind: pepnet, gate: 0}", "model.gate"),
        ("{kind: m2m, attention: 0}", "model.attention"),
        ("{kind: star, scenario_dim: 0}", "model.scenario_dim"),
        ("{kind: star, bottom: [3, 0]}", "model"),
    ] {
        let error = build(&mut component(job), &spec(), &mut ParamStore::new(0)).err().unwrap();
        assert_eq!(error.place("key"), Some(key), "{error}");
    }
}
