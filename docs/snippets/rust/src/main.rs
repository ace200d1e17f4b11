//! classify BUNDLE_DIR [TEXT ...]: one JSON line per text; without texts, the bundle's golden rows.

use std::{env, fs, path::Path, process::exit};

use ort::{session::Session, value::Tensor};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokenizers::Tokenizer;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const HELP: &str = "run `paredown choose RUN --candidate NAME` to pack another candidate";

#[derive(Deserialize)]
struct Manifest {
    schema: u32,
    task: String,
    runtime: String,
    model: String,
    inputs: Vec<String>,
    outputs: Vec<String>,
    labels: Vec<String>,
    pad_id: i64,
    length_policy: LengthPolicy,
    batch_size: Option<usize>,
    threads: Option<usize>,
    golden: String,
}

#[derive(Deserialize)]
struct LengthPolicy {
    pad_to: Value, // "longest", or a list of lengths
}

#[derive(Deserialize)]
struct Golden {
    rows: Vec<GoldenRow>,
}

#[derive(Deserialize)]
struct GoldenRow {
    text: String,
}

#[derive(Serialize)]
struct Answer<'a> {
    text: &'a str,
    label: &'a str,
    score: f64,
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?)
}

fn check(manifest: &Manifest) -> Result<()> {
    for (key, found, wanted) in [
        ("schema", manifest.schema.to_string(), "3"),
        ("task", manifest.task.clone(), "text-classification"),
        ("runtime", manifest.runtime.clone(), "onnxruntime"),
        (
            "inputs",
            manifest.inputs.join(", "),
            "input_ids, attention_mask",
        ),
    ] {
        if found != wanted {
            return Err(format!("{key} is {found}, this program needs {wanted}; {HELP}").into());
        }
    }
    Ok(())
}

fn classify() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [bundle, texts @ ..] = arguments.as_slice() else {
        return Err("usage: classify BUNDLE_DIR [TEXT ...]".into());
    };
    let bundle = Path::new(bundle);
    let manifest: Manifest = read(&bundle.join("manifest.json"))?;
    check(&manifest)?;
    let texts = if texts.is_empty() {
        let golden: Golden = read(&bundle.join(&manifest.golden))?;
        golden.rows.into_iter().map(|row| row.text).collect()
    } else {
        texts.to_vec()
    };
    let tokenizer = Tokenizer::from_file(bundle.join("tokenizer.json"))
        .map_err(|error| format!("tokenizer.json: {error}"))?;
    ort::init_from(env::var("ORT_DYLIB_PATH").unwrap_or("libonnxruntime.so".into()))?.commit();
    let mut session = Session::builder()?
        .with_intra_threads(manifest.threads.unwrap_or(0))? // 0: all cores
        .commit_from_file(bundle.join(&manifest.model))?;
    let rows = manifest.batch_size.unwrap_or(1);
    let lengths: Vec<usize> =
        serde_json::from_value(manifest.length_policy.pad_to).unwrap_or_default();

    for text in &texts {
        let encoding = tokenizer
            .encode(text.as_str(), true)
            .map_err(|error| format!("tokenizer.json: {error}"))?;
        let mut ids: Vec<i64> = encoding.get_ids().iter().map(|&id| id.into()).collect();
        let mut mask = vec![1i64; ids.len()];
        if let Some(&length) = lengths.iter().find(|&&length| length >= ids.len()) {
            ids.resize(length, manifest.pad_id);
            mask.resize(length, 0);
        }
        let shape = [rows, ids.len()];
        let outputs = session.run(ort::inputs![
            "input_ids" => Tensor::from_array((shape, ids.repeat(rows)))?,
            "attention_mask" => Tensor::from_array((shape, mask.repeat(rows)))?,
        ])?;
        let (_, values) = outputs[manifest.outputs[0].as_str()].try_extract_tensor::<f32>()?;
        let logits = &values[..manifest.labels.len()]; // of the first row
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
        let best = best.ok_or("the manifest has no labels")?;
        let exponentials = logits
            .iter()
            .map(|&logit| f64::from(logit - logits[best]).exp());
        let score = 1.0 / exponentials.sum::<f64>();
        let label = &manifest.labels[best];
        println!("{}", serde_json::to_string(&Answer { text, label, score })?);
    }
    Ok(())
}

fn main() {
    // Else ONNX Runtime reports its use to its vendor. No other thread runs yet, so that this is safe.
    unsafe { env::set_var("ORT_DISABLE_TELEMETRY", "1") };
    if let Err(error) = classify() {
        eprintln!("error: {error}");
        exit(2);
    }
}
