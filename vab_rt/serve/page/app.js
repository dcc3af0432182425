// Drop a video, hear its takes, mark a part, make it anew.

import { Player } from "/page/player.js";
import * as server from "/page/server.js";

const $ = (id) => document.getElementById(id);
let file = null;      // the video
let takes = [];       // {id, candidate, seed, score, blob, before}; before: what undo brings back
let chosen = 0;
let working = null;   // the id of the sound in progress
const asked = new Set();

const player = new Player($("wave"), $("video"), {
  onTime: (at) => { $("time").textContent = `${at.toFixed(1)} s`; },
  onPart: ([from, to]) => {
    $("from").value = from.toFixed(2);
    $("to").value = to.toFixed(2);
    enable();
  },
  onPlaying: (is) => { $("play").textContent = is ? "Pause" : "Play"; },
});

const say = (text) => { $("status").textContent = text; };

function enable() {
  $("make").disabled = !file || working !== null;
  $("working").hidden = working === null;
  const part = Number($("to").value) > Number($("from").value);
  $("again").disabled = !part || working !== null || !takes.length;
  $("undo").disabled = working !== null || !takes[chosen]?.before;
}

function choose(video) {
  if (!video) return;
  file = video;
  takes = [];
  $("result").hidden = true;
  URL.revokeObjectURL($("video").src);
  $("video").hidden = false;
  $("unplayable").hidden = true;
  $("video").src = URL.createObjectURL(video);
  say("");
  enable();
}

// Asks for a sound and waits for it; null where there is none in the end.
async function work(request, label) {
  working = "";
  $("progress").removeAttribute("value");
  say(`${label}: sending`);
  enable();
  try {
    const { id } = await request();
    working = id;
    asked.add(id);
    for await (const report of server.reports(id)) {
      if (report.status === "queued") say("Waiting for its turn");
      if (report.status === "in_progress") {
        $("progress").value = report.progress;
        say(label);
      }
      if (report.status === "failed") throw new Error(report.error);
      if (report.status === "cancelled") say("Cancelled");
      if (report.status === "completed") {
        say(report.warnings.join("; ") || "Done");
        return report;
      }
    }
  } catch (error) {
    say(`That did not work: ${error.message}`);
  } finally {
    working = null;
    enable();
  }
  return null;
}

async function takesOf(report) {
  return Promise.all(report.candidates.map(async ({ candidate, seed, score }) => (
    { id: report.id, candidate, seed, score, blob: await server.content(report.id, candidate, "wav") }
  )));
}

async function make() {
  const query = new URLSearchParams({ seed: $("seed").value || "0" });
  if (Number($("takes").value) > 1) query.set("num_candidates", $("takes").value);
  if ($("kinds").value) query.set("kinds", $("kinds").value);
  const report = await work(() => server.create(file, query), "Making sound");
  if (!report) return;
  takes = await takesOf(report);
  $("result").hidden = false;
  player.clear();
  $("from").value = $("to").value = "";
  await show(0);
}

async function again() {
  const old = takes[chosen], number = chosen;
  const query = new URLSearchParams({
    start_s: $("from").value, end_s: $("to").value, candidate: old.candidate,
  });
  const report = await work(() => server.regenerate(old.id, query), "Making the part anew");
  if (!report) return;
  const [take] = await takesOf(report);
  takes[number] = { ...take, score: null, before: old };
  await show(number);
}

async function undo() {
  takes[chosen] = takes[chosen].before;
  await show(chosen);
}

async function show(number) {
  chosen = number;
  $("list").replaceChildren(...takes.map((take, i) => {
    const label = document.createElement("label"), radio = document.createElement("input");
    radio.type = "radio";
    radio.name = "take";
    radio.checked = i === chosen;
    radio.addEventListener("change", () => show(i));
    const score = take.score === null ? "" : `, score ${take.score.toFixed(3)}`;
    const changed = take.before ? ", a part made anew" : "";
    label.append(radio, ` Take ${i + 1}: seed ${take.seed}${score}${changed}`);
    return label;
  }));
  enable();
  await player.load(takes[number].blob);
}

async function download(format) {
  const take = takes[chosen];
  try {
    const blob = await server.content(take.id, take.candidate, format);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${file.name.replace(/\.[^.]*$/, "")}.${take.seed}.${format}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  } catch (error) {
    say(`That did not work: ${error.message}`);
  }
}

$("file").addEventListener("change", () => choose($("file").files[0]));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) {
      $("file").files = event.dataTransfer.files;
      choose($("file").files[0]);
    }
  });
}
$("ask").addEventListener("submit", (event) => { event.preventDefault(); make(); });
$("cancel").addEventListener("click", () => working && server.remove(working));
$("again").addEventListener("click", again);
$("undo").addEventListener("click", undo);
$("play").addEventListener("click", () => player.toggle());
$("video").addEventListener("error", () => {
  $("video").hidden = true;
  $("unplayable").hidden = false;
});
for (const id of ["from", "to"]) {
  $(id).addEventListener("change", () => {
    const from = Number($("from").value), to = Number($("to").value);
    if (to > from) player.mark(from, to);
    enable();
  });
}
for (const button of document.querySelectorAll(".download")) {
  button.addEventListener("click", () => download(button.dataset.format));
}
document.addEventListener("keydown", (event) => {
  const inField = event.target.matches("input:not([type=radio]), select");
  const onButton = event.key === " " && event.target.matches("button");
  if ($("result").hidden || inField || onButton || event.ctrlKey || event.metaKey || event.altKey) return;
  const number = Number(event.key) - 1;
  const does = {
    " ": () => player.toggle(),
    ArrowLeft: () => player.move(-1),
    ArrowRight: () => player.move(1),
    r: () => $("again").click(),
    u: () => $("undo").click(),
  }[event.key] ?? (number >= 0 && number < takes.length ? () => show(number) : null);
  if (does) {
    event.preventDefault();
    does();
  }
});
// Nobody waits for what a page that is gone has asked for.
addEventListener("pagehide", () => { for (const id of asked) server.remove(id).catch(() => {}); });
addEventListener("pageshow", ({ persisted }) => { if (persisted) location.reload(); });
// The space bar plays, also after a button was clicked; one that was reached by keys keeps it.
addEventListener("click", ({ detail, target }) => { if (detail && target.matches("button")) target.blur(); });

try {
  const [model] = await server.models();
  $("model").textContent = `${model.id} on ${model.device}`;
  $("kinds-label").hidden = !model.kinds.length;
  $("kinds").append(...model.kinds.map((kind) => new Option(kind)));
} catch (error) {
  say(error.message);
}
