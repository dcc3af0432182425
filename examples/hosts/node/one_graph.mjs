// One graph from JavaScript: what a model says of itself, what it is asked, and the wav of it.
// Node and the browser share this file; `ort` is onnxruntime-node or onnxruntime-web.

const whole = (low, high) => ({ low, high, isWhole: true });
const LIMITS = {
  seed: whole(0n, 2n ** 64n - 1n),
  steps: whole(1n, 1024n),
  fine_steps: whole(1n, 1024n),
  top_k: whole(0n, 2n ** 31n - 1n),
  guidance: { low: -1e6, high: 1e6 },
  temperature: { low: 1e-6, high: 1e6 },
  mask_temperature: { low: 0, high: 1e6 },
};

// The metadata of an ONNX file, which onnxruntime for JavaScript does not tell: field 14 of its
// outermost message, strings in fields 1 and 2.
export function readFacts(bytes, from = 0, to = bytes.length, isModel = true) {
  const found = {};
  let at = from;
  const number = () => {
    for (let value = 0, factor = 1; ; factor *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
  };
  while (at < to) {
    const tag = number();
    const kind = tag % 8;
    if (kind === 0) number();
    else if (kind !== 2) at += kind === 1 ? 8 : 4;
    else {
      const end = number() + at;
      if (isModel && tag >> 3 === 14) {
        const pair = readFacts(bytes, at, end, false);
        found[pair[1]] = pair[2];
      } else if (!isModel) found[tag >> 3] = new TextDecoder().decode(bytes.subarray(at, end));
      at = end;
    }
  }
  return found;
}

// What this model is, and the shapes that it takes; throws where it is no such graph.
export function describe(bytes, session) {
  const facts = readFacts(bytes);
  const version = facts["vab_rt.one_graph"] ?? "none";
  if (version !== "1") throw new Error(`one graph of version ${version}, expected 1; export it again`);
  const shapes = Object.fromEntries(session.inputMetadata.map(({ name, shape }) => [name, shape]));
  if (!shapes.frames) {
    throw new Error("the graph takes features, expected frames; export it with --with-video");
  }
  const options = Object.entries(JSON.parse(facts.options)).filter(([name]) => name in shapes);
  return {
    shapes,
    options: { seed: 0, ...Object.fromEntries(options) },
    maskId: Number(facts.mask_id),
    rateHz: Number(facts.sample_rate_hz),
    clipS: Number(facts.clip_s),
  };
}

export function readNumber(name, text) {
  const { low, high, isWhole } = LIMITS[name];
  try {
    if (!/^[-+.\de]+$/i.test(text)) throw new SyntaxError(); // nor 0x10, which Number takes
    const value = isWhole ? BigInt(text) : Number(text);
    if (low <= value && value <= high) return value;
  } catch (error) {
    if (!(error instanceof SyntaxError || error instanceof RangeError)) throw error;
  }
  const kind = isWhole ? "a whole number" : "a number";
  throw new Error(`${name} is ${text}, expected ${kind} from ${low} to ${high}`);
}

// Frames uint8 [F, size, size, 3] of bytes that may hold fewer: the last one then stands still.
export function fillFrames(name, bytes, shape) {
  const [count, height, width, channels] = shape;
  const size = height * width * channels;
  if (bytes.length % size || bytes.length < size || bytes.length > size * count) {
    throw new Error(
      `${name} holds ${bytes.length} bytes, expected 1 to ${count} frames of ${width} x ${height} ` +
        `RGB, ${size} bytes each`,
    );
  }
  const filled = new Uint8Array(size * count);
  filled.set(bytes);
  const last = bytes.subarray(bytes.length - size);
  for (let at = bytes.length; at < filled.length; at += size) filled.set(last, at);
  return filled;
}

// Tokens Int32Array and samples Float32Array, as many as are heard of `frames`.
export async function makeSound(ort, session, model, frames, images, wishes = {}) {
  const { shapes } = model;
  const asked = { ...model.options, ...wishes };
  const seed = readNumber("seed", asked.seed);
  delete asked.seed;
  const scalar = (type, value) => new ort.Tensor(type, value, []);
  const feeds = {
    frames: new ort.Tensor("uint8", fillFrames("frames", frames, shapes.frames), shapes.frames),
    given: new ort.Tensor("int32", new Int32Array(shapes.given.reduce((a, b) => a * b)).fill(model.maskId), shapes.given),
    seed_low: scalar("uint32", Uint32Array.of(Number(seed & 0xffffffffn))),
    seed_high: scalar("uint32", Uint32Array.of(Number(seed >> 32n))),
  };
  if (images && !shapes.images) throw new Error("the graph takes no images, expected frames alone");
  if (shapes.images) {
    if (!images) throw new Error("the graph also takes images, expected images=FILE");
    feeds.images = new ort.Tensor("uint8", fillFrames("images", images, shapes.images), shapes.images);
  }
  for (const [name, value] of Object.entries(asked)) {
    const checked = readNumber(name, value);
    const isWhole = typeof checked === "bigint";
    feeds[name] = isWhole ? scalar("int64", BigInt64Array.of(checked)) : scalar("float64", Float64Array.of(checked));
  }
  const { tokens, audio } = await session.run(feeds);
  const share = frames.length / feeds.frames.data.length;
  return { tokens: tokens.data, samples: audio.data.subarray(0, Math.ceil(audio.data.length * share)) };
}

// A wav of 16 bits and one channel; quieter where it would not fit.
export function toWav(samples, rateHz) {
  const loudest = samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 1);
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at, word) => [...word].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rateHz, true);
  view.setUint32(28, 2 * rateHz, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, i) => view.setInt16(44 + 2 * i, Math.round((sample / loudest) * 32767), true));
  return new Uint8Array(view.buffer);
}
