// What transformers.js answers: `node ask.mjs` reads {directory, model, pipeline, texts, options} as JSON and writes
// answers as JSON. `model`: a class of transformers.js, whose outputs are wanted; or `pipeline`: a task, whose answers.
import { readFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import * as hf from "@huggingface/transformers";

const asked = JSON.parse(readFileSync(0, "utf8"));
hf.env.allowRemoteModels = false;
hf.env.localModelPath = `${dirname(asked.directory)}/`;
const name = basename(asked.directory);
const found = [];
if (asked.pipeline) {
  const pipe = await hf.pipeline(asked.pipeline, name, asked.load ?? {});
  for (const [text] of asked.texts) {
    const answer = await pipe(text, asked.options ?? {});
    found.push(answer.tolist ? answer.tolist() : answer);
  }
} else {
  const tokenizer = await hf.AutoTokenizer.from_pretrained(name);
  const model = await hf[asked.model].from_pretrained(name, asked.load ?? {});
  for (const [text, text_pair] of asked.texts) {
    const outputs = await model(await tokenizer(text, { text_pair, truncation: true }));
    const named = Object.entries(outputs).filter(([, value]) => value?.tolist);
    found.push(Object.fromEntries(named.map(([key, value]) => [key, value.tolist()[0]])));
  }
}
console.log(JSON.stringify(found));
