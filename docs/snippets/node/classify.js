// node classify.js BUNDLE_DIR [TEXT ...]: one JSON line per text; without texts, the bundle's golden rows.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import ort from "onnxruntime-node";
import { Tokenizer } from "tokenizers";

process.env.ORT_DISABLE_TELEMETRY ??= "1"; // else ONNX Runtime reports its use to its vendor
const HELP = "run `paredown choose RUN --candidate NAME` to pack another candidate";

function expect(manifest, key, wanted) {
  const [found, needed] = [manifest[key], wanted].map((value) => JSON.stringify(value));
  if (found !== needed) throw new Error(`${key} is ${found}, this program needs ${needed}; ${HELP}`);
}

// (rows, length) int64, every row the same: ids, padded on the right
function tensor(ids, length, filler, rows) {
  const row = [...ids, ...Array(length - ids.length).fill(filler)];
  return new ort.Tensor("int64", BigInt64Array.from(Array(rows).fill(row).flat(), BigInt), [rows, length]);
}

async function classify(bundle, texts) {
  if (bundle === undefined) throw new Error("usage: node classify.js BUNDLE_DIR [TEXT ...]");
  const manifest = JSON.parse(readFileSync(join(bundle, "manifest.json"), "utf8"));
  expect(manifest, "schema", 3);
  expect(manifest, "task", "text-classification");
  expect(manifest, "runtime", "onnxruntime");
  expect(manifest, "inputs", ["input_ids", "attention_mask"]);
  if (texts.length === 0) {
    texts = JSON.parse(readFileSync(join(bundle, manifest.golden), "utf8")).rows.map((row) => row.text);
  }
  const tokenizer = Tokenizer.fromFile(join(bundle, "tokenizer.json"));
  const session = await ort.InferenceSession.create(join(bundle, manifest.model), {
    intraOpNumThreads: manifest.threads ?? 0, // 0: all cores
  });
  const lengths = manifest.length_policy.pad_to === "longest" ? [] : manifest.length_policy.pad_to;
  const rows = manifest.batch_size ?? 1;

  for (const text of texts) {
    const ids = (await tokenizer.encode(text)).getIds();
    const length = lengths.find((known) => known >= ids.length) ?? ids.length;
    const outputs = await session.run({
      input_ids: tensor(ids, length, manifest.pad_id, rows),
      attention_mask: tensor(ids.map(() => 1), length, 0, rows),
    });
    const logits = [...outputs[manifest.outputs[0]].data.slice(0, manifest.labels.length)]; // of the first row
    const best = logits.indexOf(Math.max(...logits));
    const score = 1 / logits.reduce((sum, logit) => sum + Math.exp(logit - logits[best]), 0);
    console.log(JSON.stringify({ text, label: manifest.labels[best], score }));
  }
}

try {
  await classify(process.argv[2], process.argv.slice(3));
} catch (error) {
  console.error(`error: ${error.message}`);
  process.exitCode = 2;
}
