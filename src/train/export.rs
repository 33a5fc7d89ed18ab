//! Exporting a checkpoint as a bundle that serving systems read: on one rank, with the memory of some of the
//! checkpoint's files.

mod golden;
mod quantized;
mod trace;

pub use quantized::Effect;

use super::freeze::Frozen;
use super::persist;
use super::setup;
use super::step::Trainable;
use super::trained::saved_job;
use crate::checkpoint::{self, Manifest, checksum, load_dense, read_tables};
use crate::comm::Comm;
use crate::comm::solo::Solo;
use crate::config::job::Job;
use crate::data::batch::Batch;
use crate::data::scenarios::Scenarios;
use crate::data::schema::{Purpose, Schema};
use crate::data::statistics::Statistics;
use crate::data::store::Store;
use crate::embedding::TableRows;
use crate::error::{Error, Result};
use crate::export::bundle::{self, Draft};
use crate::export::delta::{self, Base};
use crate::export::describe::{self, Described};
use crate::export::schema::{BundleSchema, Dtype, SelfContained, Table};
use crate::export::self_contained::{self, check_size};
use crate::export::tables::{Format, Shape, TableWriter, as_stored, write_tombstones};
use crate::export::verify::{Report, verify};
use crate::export::{golden as golden_file, onnx, triton};
use crate::nn::Program;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// The rows of every table by its name.
type RowsByTable = BTreeMap<String, self_contained::Rows>;

/// Where the files of the model go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Layout {
    /// `model.onnx` in the bundle.
    #[default]
    Plain,
    /// `model_repository/<job>/1/model.onnx` with `config.pbtxt`, for Triton Inference Server.
    Triton,
}

/// What is exported.
#[derive(Debug, Clone)]
pub struct Options {
    /// The bundle; must be new or empty.
    pub out: PathBuf,
    /// Formats of the tables. Parquet is always one of them.
    pub formats: Vec<Format>,
    /// Where the golden rows come from; default: the job's test rows, else its validation rows, else its training rows.
    pub data: Vec<String>,
    /// Where the files of the model go.
    pub layout: Layout,
    /// How tables store vectors.
    pub dtype: Dtype,
    /// The checkpoint that a delta builds on; without one the bundle is whole.
    pub since: Option<PathBuf>,
    /// Whether to write a model that holds the tables, too.
    pub self_contained: bool,
}

/// What was exported.
#[derive(Debug)]
pub struct Exported {
    /// The checkpoint.
    pub checkpoint: PathBuf,
    /// Its schema.
    pub schema: BundleSchema,
    /// What its golden rows gave; a delta has none.
    pub report: Option<Report>,
    /// What storing vectors in fewer bits does; empty where they are stored as they were trained.
    pub effects: Vec<Effect>,
}

/// Exports the checkpoint that `path` means. What does not verify is not published.
pub fn export(store: &Arc<dyn Store>, path: &Path, options: &Options) -> Result<Exported> {
    let exporter = Exporter::open(path)?;
    let effects = match options.dtype {
        Dtype::F32 => Vec::new(),
        dtype => quantized::effects(&exporter, store, &options.data, dtype)?,
    };
    let draft = Draft::begin(&options.out)?;
    let written = exporter.write(store, &draft, options);
    let checked = written.and_then(|schema| {
        // A delta is verified where it is applied: alone it has not all rows.
        let report = if options.since.is_some() { None } else { Some(verify(draft.path())?) };
        report.iter().try_for_each(Report::check)?;
        Ok(Exported { checkpoint: exporter.path.clone(), schema, report, effects })
    });
    match checked {
        Ok(exported) => draft.publish().map(|()| exported),
        Err(error) => {
            draft.discard();
            Err(error)
        }
    }
}

/// A checkpoint whose dense part is loaded, and of whose tables only what golden rows need will be.
struct Exporter {
    comm: Comm,
    path: PathBuf,
    manifest: Manifest,
    job: Job,
    schema: Arc<Schema>,
    statistics: Arc<Statistics>,
}

impl Exporter {
    fn open(path: &Path) -> Result<Self> {
        let path = checkpoint::resolve(path)?;
        let manifest = Manifest::read(&path)?;
        let mut job = saved_job(&manifest)?;
        job.memory_limit = None;
        let schema = Arc::new(Schema::new(&job, Purpose::Predict)?);
        let statistics = Arc::new(persist::statistics(&manifest)?);
        Ok(Self { comm: Rc::new(Solo), path, manifest, job, schema, statistics })
    }

    /// Names of the scenarios, where the job names a column of them.
    fn scenarios(&self) -> &[String] {
        self.statistics.scenarios().map_or(&[], Scenarios::names)
    }

    fn write(&self, store: &Arc<dyn Store>, draft: &Draft, options: &Options) -> Result<BundleSchema> {
        let mut job = self.job.clone();
        let frozen = Frozen::of_checkpoint(&self.manifest);
        let mut trainable = setup::build(&self.comm, &mut job, &self.schema, self.scenarios(), frozen)?;
        load_dense(&self.path, &self.manifest, &trainable.store)?;
        let program = trace::program(&trainable)?;
        let rows = golden::Rows::read(&self.comm, store, &self.job, &self.schema, &self.statistics, &options.data)?;
        let (tables, kept) = self.write_tables(draft, options, &mut trainable, &rows.batch)?;
        let file = self.write_model(draft, options.layout, &trainable, &program)?;
        let mut schema = self.describe(&trainable, &program, &file, tables)?;
        if let Some(kept) = kept {
            let (inputs, outputs) = (describe::inputs(&trainable.spec), describe::outputs(&self.job));
            let (model, inputs) = self_contained::write(&program, &inputs, &outputs, &schema, &kept)?;
            draft.write(self_contained::FILE, &model)?;
            schema.onnx.self_contained = Some(SelfContained { file: self_contained::FILE.to_string(), inputs });
        }
        let numbers = rows.score(&self.comm, &mut trainable, &schema)?;
        golden_file::write(&draft.path().join(golden_file::FILE), &rows.rows, &numbers)?;
        delta::write_schema(draft, &schema)?;
        let since = options.since.as_ref().map(|path| Base::open(path, &self.manifest)?.checksum()).transpose()?;
        draft.seal(bundle::Manifest { since, ..self.bundle_manifest()? })?;
        Ok(schema)
    }

    fn bundle_manifest(&self) -> Result<bundle::Manifest> {
        let path = self.path.join(checkpoint::MANIFEST);
        let text = std::fs::read(&path).map_err(|e| Error::io("reading", &path, &e))?;
        Ok(bundle::Manifest {
            format: bundle::FORMAT,
            tandem: env!("CARGO_PKG_VERSION").to_string(),
            job: self.job.name.clone(),
            step: self.manifest.step,
            checkpoint: checksum(&text),
            since: None,
            files: Vec::new(),
        })
    }

    /// Writes every table, and gives `trainable` the rows that `batch` asks for, as they will be read from the files.
    /// For a self-contained model all rows are returned, too.
    fn write_tables(
        &self,
        draft: &Draft,
        options: &Options,
        trainable: &mut Trainable,
        batch: &Batch,
    ) -> Result<(Vec<Table>, Option<RowsByTable>)> {
        let mut formats = [options.formats.as_slice(), &[Format::Parquet]].concat();
        formats.sort_unstable();
        formats.dedup();
        let mut base = options.since.as_ref().map(|path| Base::open(path, &self.manifest)).transpose()?;
        let counts = match &mut base {
            None => Some(self.manifest.tables.iter().map(|table| table.rows).collect()),
            Some(base) if formats.contains(&Format::Safetensors) => Some(self.count_changes(base)?),
            Some(_) => None,
        };
        let shape = |(index, table): (usize, &checkpoint::TableEntry)| Shape {
            job: self.job.name.clone(),
            table: table.name.clone(),
            dim: table.dim,
            rows: counts.as_ref().map(|counts: &Vec<u64>| counts[index]),
            dtype: options.dtype,
        };
        let shapes: Vec<Shape> = self.manifest.tables.iter().enumerate().map(shape).collect();
        let writers = shapes.iter().map(|shape| TableWriter::create(draft.path(), shape.clone(), &formats));
        let mut writers = writers.collect::<Result<Vec<_>>>()?;
        let wanted = wanted(trainable, batch);
        let mut gone = vec![Vec::new(); shapes.len()];
        if options.self_contained {
            check_size(self.manifest.tables.iter().map(|table| (table.rows, table.dim)))?;
        }
        let mut all: BTreeMap<String, self_contained::Rows> = BTreeMap::new();
        read_tables(&self.path, &self.manifest, 0..self.manifest.buckets, |table, rows| {
            match &mut base {
                None => writers[table].push(&rows.ids, &rows.values)?,
                Some(base) => {
                    let change = base.change(table, rows)?;
                    writers[table].push(&change.changed.ids, &change.changed.values)?;
                    gone[table].extend(change.gone);
                }
            }
            let mut kept: TableRows = rows.of_ids(|id| wanted[table].contains(&id));
            kept.values = as_stored(options.dtype, shapes[table].dim, &kept.values);
            if options.self_contained {
                let shape = &shapes[table];
                let all = all.entry(shape.table.clone()).or_default();
                all.ids.extend_from_slice(&rows.ids);
                all.vectors.extend(as_stored(options.dtype, shape.dim, &rows.values));
            }
            trainable.embeddings.import(table, &kept).map(|_| ())
        })?;
        let mut tables = Vec::new();
        for ((entry, writer), gone) in self.manifest.tables.iter().zip(writers).zip(gone) {
            let mut files = writer.finish()?;
            if base.is_some() {
                let file = delta::tombstones_file(&entry.name);
                write_tombstones(&draft.path().join(&file), &gone)?;
                files.insert(delta::TOMBSTONES.to_string(), file);
            }
            let (name, dim, rows) = (entry.name.clone(), entry.dim, entry.rows);
            tables.push(Table { name, dim, rows, dtype: options.dtype, files });
        }
        Ok((tables, options.self_contained.then_some(all)))
    }

    /// Rows of each table that a delta has: a pass of its own, for formats that begin with their number.
    fn count_changes(&self, base: &mut Base) -> Result<Vec<u64>> {
        let mut counts = vec![0; self.manifest.tables.len()];
        read_tables(&self.path, &self.manifest, 0..self.manifest.buckets, |table, rows| {
            counts[table] += base.change(table, rows)?.changed.ids.len() as u64;
            Ok(())
        })?;
        Ok(counts)
    }

    /// Writes the model; returns its file.
    fn write_model(&self, draft: &Draft, layout: Layout, trainable: &Trainable, program: &Program) -> Result<String> {
        let (inputs, outputs) = (describe::inputs(&trainable.spec), describe::outputs(&self.job));
        let model = onnx::write(program, &inputs, &outputs, &self.job.name);
        let file = match layout {
            Layout::Plain => "model.onnx".to_string(),
            Layout::Triton => {
                let config = triton::config(&self.job.name, &onnx::used(program, &inputs), &outputs);
                let folder = format!("model_repository/{}", self.job.name);
                draft.write(&format!("{folder}/config.pbtxt"), config.as_bytes())?;
                format!("{folder}/1/model.onnx")
            }
        };
        draft.write(&file, &model)?;
        Ok(file)
    }

    fn describe(
        &self,
        trainable: &Trainable,
        program: &Program,
        file: &str,
        tables: Vec<Table>,
    ) -> Result<BundleSchema> {
        let bags: Vec<_> = trainable.embeddings.bags().collect();
        let described = Described {
            job: &self.job,
            schema: &self.schema,
            statistics: &self.statistics,
            spec: &trainable.spec,
            bags: &bags,
            step: self.manifest.step,
        };
        let used = onnx::used(program, &describe::inputs(&trainable.spec));
        described.bundle_schema(file, &used, tables)
    }
}

/// The ids of each table that a batch asks for.
fn wanted(trainable: &Trainable, batch: &Batch) -> Vec<HashSet<u64>> {
    let mut wanted = vec![HashSet::new(); trainable.embeddings.table_names().count()];
    // The bags of every set of tables read the same columns.
    for (bag, column) in trainable.embeddings.bags().zip(batch.ids.iter().cycle()) {
        wanted[bag.table].extend(column.ids().iter().copied());
    }
    wanted
}
