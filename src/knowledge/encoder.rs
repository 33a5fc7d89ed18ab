//! Text encoders in the Hugging Face layout, on the CPU.
//!
//! ```text
//! DIR/config.json            the architecture: `model_type` and sizes
//! DIR/tokenizer.json         text → tokens
//! DIR/*.safetensors          the weights, in one file or several
//! DIR/1_Pooling/config.json  of sentence encoders: how token vectors become one      (optional)
//! DIR/modules.json           of sentence encoders: whether that is normalised        (optional)
//! DIR/sentence_bert_config.json                        the longest text in tokens     (optional)
//! ```

use super::Encode;
use crate::error::{Error, Result};
use candle_core::{DType, Device, IndexOp, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{bert, distilbert};
use clap::ValueEnum;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::{Path, PathBuf};
use tokenizers::{Tokenizer, TruncationParams};

/// How the vectors of a text's tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// That of the first token.
    Cls,
}

/// What the files of an encoder leave open, or a user wants otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Default: as `1_Pooling/config.json` says, else the mean.
    pub pooling: Option<Pooling>,
    /// Whether vectors get length 1; default: as `modules.json` says, else not.
    pub normalize: Option<bool>,
    /// Tokens after which a text is cut; default: as `sentence_bert_config.json` says, else what the model can take.
    pub max_tokens: Option<usize>,
}

/// An encoder.
pub struct Encoder {
    name: String,
    tokenizer: Tokenizer,
    model: Model,
    dim: usize,
    pooling: Pooling,
    normalize: bool,
}

enum Model {
    Bert(bert::BertModel),
    DistilBert(distilbert::DistilBertModel),
}

impl Encoder {
    /// Reads the encoder in the folder `dir`.
    ///
    /// # Errors
    /// A file that is missing or damaged, or an architecture that tandem does not know.
    pub fn load(dir: &Path, options: Options) -> Result<Self> {
        let said: Value = required(&dir.join("config.json"))?;
        let kind = said["model_type"].as_str().unwrap_or("bert").to_string();
        let weights = weights(dir)?;
        let (model, dim, longest) = match kind.as_str() {
            "bert" => {
                let config: bert::Config = required(&dir.join("config.json"))?;
                let model = bert::BertModel::load(weights, &config).map_err(|e| unfit(dir, &e))?;
                (Model::Bert(model), config.hidden_size, config.max_position_embeddings)
            }
            "distilbert" => {
                let config: distilbert::Config = required(&dir.join("config.json"))?;
                let model = distilbert::DistilBertModel::load(weights, &config).map_err(|e| unfit(dir, &e))?;
                (Model::DistilBert(model), config.dim, said["max_position_embeddings"].as_u64().unwrap_or(512) as usize)
            }
            other => {
                return Err(Error::job(format!("an encoder of the type `{other}` is not known"))
                    .at("file", dir.join("config.json").display())
                    .fix("use one of the type `bert` or `distilbert`, which most sentence encoders are"));
            }
        };
        let max_tokens = options.max_tokens.or_else(|| said_longest(dir)).unwrap_or(longest).min(longest);
        Ok(Self {
            name: format!("{} ({kind}, {max_tokens} tokens)", name(dir, &said)),
            tokenizer: tokenizer(dir, max_tokens)?,
            model,
            dim,
            pooling: options.pooling.or_else(|| said_pooling(dir)).unwrap_or(Pooling::Mean),
            normalize: options.normalize.unwrap_or_else(|| says_normalize(dir)),
        })
    }

    /// The vectors of a text's tokens, `[tokens, dim]`.
    fn hidden(&self, tokens: &[u32], types: &[u32]) -> candle_core::Result<Tensor> {
        let row = |values: &[u32]| Tensor::from_slice(values, (1, values.len()), &Device::Cpu);
        let hidden = match &self.model {
            Model::Bert(model) => model.forward(&row(tokens)?, &row(types)?, None)?,
            Model::DistilBert(model) => {
                // 1 where a token may not look: nowhere.
                let mask = Tensor::zeros((1, 1, 1, tokens.len()), DType::U8, &Device::Cpu)?;
                model.forward(&row(tokens)?, &mask)?
            }
        };
        hidden.i(0)
    }
}

impl Encode for Encoder {
    fn dim(&self) -> usize {
        self.dim
    }

    fn encode(&self, text: &str) -> Result<Vec<f32>> {
        let failed = |e: &dyn std::fmt::Display| Error::data(format!("a text cannot be encoded: {e}")).at("text", text);
        let tokens = self.tokenizer.encode(text, true).map_err(|e| failed(&e))?;
        let hidden = self.hidden(tokens.get_ids(), tokens.get_type_ids());
        let hidden: Vec<Vec<f32>> = hidden.and_then(|hidden| hidden.to_vec2()).map_err(|e| failed(&e))?;
        let mut vector = match self.pooling {
            Pooling::Cls => hidden.first().cloned().unwrap_or_default(),
            Pooling::Mean => mean(&hidden, self.dim),
        };
        if self.normalize {
            let norm = vector.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt().max(1e-12);
            vector.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
        }
        Ok(vector)
    }

    fn describe(&self) -> String {
        let pooling = match self.pooling {
            Pooling::Mean => "mean",
            Pooling::Cls => "cls",
        };
        let normalized = if self.normalize { ", length 1" } else { "" };
        format!("{}, {pooling} pooling{normalized}, {} numbers", self.name, self.dim)
    }
}

fn mean(rows: &[Vec<f32>], dim: usize) -> Vec<f32> {
    let mut sum = vec![0f64; dim];
    rows.iter().for_each(|row| sum.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x)));
    sum.iter().map(|sum| (sum / rows.len().max(1) as f64) as f32).collect()
}

/// What a file of an encoder's folder holds.
fn required<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(|e| {
        Error::io("reading the encoder", path, &e)
            .fix("name a folder in the Hugging Face layout: config.json, tokenizer.json, model.safetensors")
    })?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Error::data(format!("the encoder's file cannot be used: {e}")).at("file", path.display()))
}

/// A file that an encoder may lack.
fn optional(path: PathBuf) -> Value {
    std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn said_longest(dir: &Path) -> Option<usize> {
    optional(dir.join("sentence_bert_config.json"))["max_seq_length"].as_u64().map(|tokens| tokens as usize)
}

fn said_pooling(dir: &Path) -> Option<Pooling> {
    let said = optional(dir.join("1_Pooling/config.json"));
    match (said["pooling_mode_cls_token"].as_bool(), said["pooling_mode_mean_tokens"].as_bool()) {
        (Some(true), _) => Some(Pooling::Cls),
        (_, Some(true)) => Some(Pooling::Mean),
        _ => None,
    }
}

fn says_normalize(dir: &Path) -> bool {
    let modules = optional(dir.join("modules.json"));
    let is_normalize = |module: &Value| module["type"].as_str().is_some_and(|kind| kind.ends_with("Normalize"));
    modules.as_array().is_some_and(|modules| modules.iter().any(is_normalize))
}

/// What the encoder is called: as its authors call it, else by its folder.
fn name(dir: &Path, config: &Value) -> String {
    let folder = dir.file_name().map(|name| name.to_string_lossy().into_owned());
    config["_name_or_path"].as_str().filter(|name| !name.is_empty()).map(str::to_string).or(folder).unwrap_or_default()
}

fn tokenizer(dir: &Path, max_tokens: usize) -> Result<Tokenizer> {
    let path = dir.join("tokenizer.json");
    let wrong = |e: &dyn std::fmt::Display| {
        Error::data(format!("the tokenizer cannot be used: {e}"))
            .at("file", path.display())
            .fix("name a folder in the Hugging Face layout: config.json, tokenizer.json, model.safetensors")
    };
    let mut tokenizer = Tokenizer::from_file(&path).map_err(|e| wrong(&e))?;
    // Texts are encoded one by one: what the file says of padding is for batches.
    tokenizer.with_padding(None);
    let cut = TruncationParams { max_length: max_tokens, ..TruncationParams::default() };
    tokenizer.with_truncation(Some(cut)).map_err(|e| wrong(&e))?;
    Ok(tokenizer)
}

/// The weights of all `*.safetensors` files.
fn weights(dir: &Path) -> Result<VarBuilder<'static>> {
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io("reading the encoder", dir, &e))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    paths.sort();
    if paths.is_empty() {
        return Err(Error::job("the encoder has no weights")
            .at("path", dir.display())
            .fix("put its model.safetensors there; other formats are not read"));
    }
    let mut tensors = std::collections::HashMap::new();
    for path in paths {
        let loaded = candle_core::safetensors::load(&path, &Device::Cpu);
        tensors.extend(loaded.map_err(|e| {
            Error::data(format!("the encoder's weights cannot be read: {e}")).at("file", path.display())
        })?);
    }
    Ok(VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu))
}

fn unfit(dir: &Path, error: &candle_core::Error) -> Error {
    Error::data(format!("the encoder's weights do not fit its config.json: {error}"))
        .at("path", dir.display())
        .fix("download the encoder again: weights and configuration must be of one model")
}
