// Sound for a clip's frames from one graph, in Node:
//
//   node host.mjs one.onnx frames.rgb out.wav [seed=7] [steps=4] [guidance=3] ...
//
// frames.rgb: raw RGB; fewer than a clip's stand still at its end. images=FILE: of a model that also
// takes larger ones. tokens=FILE writes the tokens, int32. runs=N: as many runs, and the seconds of each.

import { readFileSync, writeFileSync } from "node:fs";
import * as ort from "onnxruntime-node";
import { describe, makeSound, readNumber, toWav } from "./one_graph.mjs";

const FILES = ["images", "tokens", "runs"];

async function main([path, frames, out, ...words]) {
  if (!out) throw new Error("expected: node host.mjs MODEL.onnx FRAMES OUT.wav [NAME=VALUE ...]");
  // Threads that spin while they wait double the time where others use the cores.
  const extra = { session: { intra_op: { allow_spinning: "0" } } };
  const session = await ort.InferenceSession.create(path, { logSeverityLevel: 3, extra });
  const model = describe(readFileSync(path), session);
  const [wishes, files] = readWords(words, model);
  const images = files.images && readFileSync(files.images);
  const held = readFileSync(frames);
  let sound;
  for (let run = 0; run < Number(files.runs ?? 1); run++) {
    const begin = performance.now();
    sound = await makeSound(ort, session, model, held, images, wishes);
    if (files.runs) console.log(`run_s ${(performance.now() - begin) / 1e3}`);
  }
  if (files.tokens) writeFileSync(files.tokens, new Uint8Array(Int32Array.from(sound.tokens).buffer));
  writeFileSync(out, toWav(sound.samples, model.rateHz));
  console.log(`${out}: ${sound.samples.length / model.rateHz} s`);
}

function readWords(words, model) {
  const known = [...Object.keys(model.options), ...FILES];
  const wishes = {};
  const files = {};
  for (const word of words) {
    const [name, value] = word.split(/=(.*)/s);
    if (!known.includes(name) || value === undefined) {
      throw new Error(`'${word}', expected NAME=VALUE with one of: ${known.join(", ")}`);
    }
    if (FILES.includes(name)) files[name] = value;
    else wishes[name] = readNumber(name, value);
  }
  return [wishes, files];
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error.message);
  process.exit(1);
});
