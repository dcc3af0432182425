// Makes sounds beside the page, so that it stays awake.

import * as ort from "./ort.wasm.min.mjs";
import { describe, makeSound, toWav } from "./one_graph.mjs";

ort.env.wasm.wasmPaths = new URL("./", import.meta.url).href;
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;

let ready;
async function load() {
  const answer = await fetch("model.onnx");
  if (!answer.ok) throw new Error(`model.onnx: ${answer.status}, expected the model beside the page`);
  const bytes = new Uint8Array(await answer.arrayBuffer());
  const session = await ort.InferenceSession.create(bytes, { logSeverityLevel: 3 });
  return { session, model: describe(bytes, session) };
}

const ACTIONS = {
  async load() {
    const { model } = await (ready ??= load());
    return { model, numThreads: ort.env.wasm.numThreads };
  },
  async make({ frames, images, wishes }) {
    const { session, model } = await ready;
    const { tokens, samples } = await makeSound(ort, session, model, frames, images, wishes);
    return { tokens: Int32Array.from(tokens), wav: toWav(samples, model.rateHz) };
  },
};

self.onmessage = async ({ data: { id, action, asked } }) => {
  try {
    self.postMessage({ id, answer: await ACTIONS[action](asked) });
  } catch (error) {
    self.postMessage({ id, error: error.message });
  }
};
