// Drop a video, hear its sound: frames are read here, sound is made in the worker.

import { nextShown, once, readFrames, seek, WRONG_VIDEO } from "./frames.mjs";
import { readNumber } from "./one_graph.mjs";

const at = (id) => document.getElementById(id);
const worker = new Worker("worker.mjs", { type: "module" });
const waiting = new Map();
let number = 0;
worker.onmessage = ({ data: { id, answer, error } }) => {
  const { done, failed } = waiting.get(id);
  waiting.delete(id);
  if (error === undefined) done(answer);
  else failed(new Error(error));
};
worker.onerror = (event) => {
  for (const { failed } of waiting.values()) failed(new Error(event.message ?? "the worker ended"));
};

export function ask(action, asked) {
  const id = number++;
  worker.postMessage({ id, action, asked });
  return new Promise((done, failed) => waiting.set(id, { done, failed }));
}

export async function opened(file, video) {
  URL.revokeObjectURL(video.src);
  const [loaded, shown] = [once(video, "loadeddata"), nextShown(video)];
  video.src = URL.createObjectURL(file);
  await loaded;
  await shown();
  if (!video.videoWidth) throw new Error(WRONG_VIDEO);
  if (!Number.isFinite(video.duration)) {
    throw new Error("that file does not say how long it is, expected one that does; convert it");
  }
}

const video = at("video");
const audio = at("audio");
let model;
let seen; // of the video that is shown

function say(text) {
  at("status").textContent = text;
}

// Runs one thing at a time; what goes wrong is one line.
async function busy(action) {
  at("make").disabled = at("file").disabled = true;
  try {
    await action();
  } catch (error) {
    say(`Not made: ${error.message}`);
  }
  at("progress").hidden = true;
  at("file").disabled = !model;
  at("make").disabled = !seen;
}

async function read(file) {
  const begin = performance.now();
  [seen, at("save").hidden] = [undefined, true];
  audio.removeAttribute("src");
  say("Reading frames");
  await opened(file, video);
  video.hidden = at("progress").hidden = false;
  seen = await readFrames(file, video, model, (share) => (at("progress").value = share));
  await seek(video, 0);
  await make(begin);
}

async function make(begin = performance.now()) {
  const wishes = { seed: readNumber("seed", at("seed").value) };
  say("Making its sound");
  at("progress").removeAttribute("value");
  const { wav } = await ask("make", { ...seen, wishes });
  URL.revokeObjectURL(audio.src);
  const url = URL.createObjectURL(new Blob([wav], { type: "audio/wav" }));
  audio.src = at("save").href = url;
  Object.assign(at("save"), { hidden: false, download: `sound-${wishes.seed}.wav` });
  const took = ((performance.now() - begin) / 1e3).toFixed(1);
  const more = video.duration > model.clipS + 0.05 ? `, of the first ${model.clipS} s: the rest stays silent` : "";
  say(`Sound of seed ${wishes.seed} in ${took} s${more}`);
}

for (const happens of ["play", "seeked", "pause", "ended"]) {
  video.addEventListener(happens, () => {
    if (!audio.src) return;
    audio.currentTime = Math.min(video.currentTime, audio.duration || 0);
    if (video.paused || video.currentTime >= audio.duration) audio.pause();
    else audio.play();
  });
}
at("make").onclick = () => busy(make.bind(null, undefined));
at("file").onchange = () => at("file").files[0] && model && busy(() => read(at("file").files[0]));
document.ondragover = (event) => {
  event.preventDefault();
  at("drop").classList.add("over");
};
document.ondragleave = () => at("drop").classList.remove("over");
document.ondrop = (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file && model && !at("file").disabled) busy(() => read(file));
};

const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];

export const loaded = busy(async () => {
  if (!WebAssembly.validate(Uint8Array.from(SIMD))) {
    throw new Error("this browser has no WebAssembly SIMD; take a newer one");
  }
  const found = await ask("load");
  model = found.model;
  if (!self.crossOriginIsolated) {
    at("lacks").textContent =
      "One thread: this site does not send Cross-Origin-Opener-Policy: same-origin and " +
      "Cross-Origin-Embedder-Policy: require-corp, without which browsers give no more.";
  }
  say(`Ready, on ${found.numThreads} thread${found.numThreads > 1 ? "s" : ""}`);
  return found.model;
}).then(() => model);
