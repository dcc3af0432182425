// Drop a video, hear its takes, mark a part, make it anew.

import { onDrop, onKeys } from "/page/input.js";
import { Player } from "/page/player.js";
import * as server from "/page/server.js";
import { hear, idsOf, showTakes, takesOf } from "/page/takes.js";

const $ = (id) => document.getElementById(id);
const FILMS = ["mov", "m4v", "mkv", "webm", "avi"];  // those that the server writes beside mp4
const KEPT_MS = 60000;
let file = null;      // the video
let takes = [];
let chosen = 0;
let work = null;      // {id, aborter}: the sound in progress
let needsPreview = false;  // of a video that this browser does not play
const asked = new Set();  // ids that the server keeps for this page

const player = new Player($("wave"), $("video"), {
  onTime: (at, of) => { $("time").textContent = `${at.toFixed(1)} of ${of.toFixed(1)} s`; },
  onPart: ([from, to]) => {
    $("from").value = from.toFixed(2);
    $("to").value = to.toFixed(2);
    enable();
  },
  onPlaying: (is) => { $("play").textContent = is ? "Pause" : "Play"; },
});

function say(text, isWrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", isWrong);
}
const tell = (error) => say(`That did not work: ${error.message}`, true);

function enable() {
  $("make").disabled = !file || work !== null;
  $("working").hidden = work === null;
  const part = Number($("to").value) > Number($("from").value);
  $("again").disabled = !part || work !== null || !takes.length;
  $("undo").disabled = work !== null || !takes[chosen]?.before;
}

function choose(video) {
  if (!video) return;
  cancel();
  forget([...asked]);
  file = video;
  takes = [];
  needsPreview = false;
  player.stop();
  $("result").hidden = true;
  $("film").hidden = false;
  $("video").controls = true;
  offerOwnFormat(video.name.split(".").pop().toLowerCase());
  show(video);
  say("");
  enable();
}

// It holds the video in any case; mp4 does not hold all.
function offerOwnFormat(suffix) {
  $("own").hidden = !FILMS.includes(suffix);
  $("own").dataset.format = suffix;
  $("own").textContent = `Download film (${suffix})`;
}

function show(film) {
  URL.revokeObjectURL($("video").src);
  $("video").hidden = false;
  $("unplayable").hidden = true;
  $("video").src = URL.createObjectURL(film);
}

// Some browsers play the sound alone of what they cannot show.
function checkFilm(isShown) {
  if (isShown) return;
  needsPreview = true;
  $("video").hidden = true;
  $("unplayable").hidden = false;
}

async function showPreview(id) {
  needsPreview = false;
  const video = file, plays = $("video").canPlayType('video/mp4; codecs="avc1.42E01E"');
  try {
    const preview = await server.preview(id, plays ? "mp4" : "webm");
    if (file === video) show(preview);
  } catch {
    // The sound tells what is wrong with the video; without a preview it is still made.
  }
}

function forget(ids) {
  for (const id of ids) {
    asked.delete(id);
    server.remove(id).catch(() => {});
  }
}

function cancel() {
  if (work?.id) server.remove(work.id).catch(() => {});
  else work?.aborter.abort();
}

// Asks for a sound and waits for it: its report, or null where there is none in the end.
async function made(request, label) {
  const video = file, own = { id: null, aborter: new AbortController() };
  work = own;
  $("progress").removeAttribute("value");
  say(`${label}: sending`);
  enable();
  try {
    const { id } = await request(own.aborter.signal);
    own.id = id;
    asked.add(id);
    for await (const report of server.reports(id)) {
      if (file !== video) return null;
      if (report.progress > 0 && needsPreview) showPreview(id);
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
    if (file !== video) return null;
    if (error.name === "AbortError") say("Cancelled");
    else tell(error);
  } finally {
    if (work === own) work = null;
    enable();
  }
  return null;
}

// Another one each time, or the one that is asked for.
const seed = () => $("seed").value || String(crypto.getRandomValues(new Uint32Array(1))[0]);

async function make() {
  const query = new URLSearchParams({ seed: seed() });
  if (Number($("takes").value) > 1) query.set("num_candidates", $("takes").value);
  if ($("kinds").value) query.set("kinds", $("kinds").value);
  const sent = (share) => { if (share < 1) $("progress").value = 100 * share; };
  const report = await made((signal) => server.create(file, query, signal, sent), "Making sound");
  if (!report) return;
  takes = takesOf(report);
  forget([...asked].filter((id) => id !== report.id));
  $("mix-label").hidden = !report.video_has_sound;
  if (!report.video_has_sound) $("mix").value = "replace";
  $("result").hidden = false;
  $("video").controls = false;
  $("video").muted = true;
  player.clear();
  $("from").value = $("to").value = "";
  await chooseTake(0);
}

async function again() {
  const old = takes[chosen], number = chosen;
  const query = new URLSearchParams({
    start_s: $("from").value, end_s: $("to").value, candidate: old.candidate, seed: seed(),
  });
  const anew = (signal) => server.regenerate(old.id, query, signal);
  const report = await made(anew, "Making the part anew");
  if (!report) return;
  const [take] = takesOf(report);
  takes[number] = { ...take, score: null, before: old };
  await chooseTake(number);
}

async function undo() {
  const { id, before } = takes[chosen];
  takes[chosen] = before;
  forget([id]);
  await chooseTake(chosen);
}

function mix() {
  const query = new URLSearchParams();
  if ($("mix").value !== "replace") query.set("mix", $("mix").value);
  if ($("gain").value !== "0") query.set("gain_db", $("gain").value);
  return query.toString();
}

async function chooseTake(number) {
  chosen = number;
  showTakes($("list"), takes, chosen, chooseTake);
  enable();
  await listen();
}

async function listen() {
  const take = takes[chosen], wanted = mix();
  try {
    const [blob, view] = await hear(take, wanted);
    if (take !== takes[chosen] || wanted !== mix()) return;
    const onsets = view.onsets_s.length;
    $("wave").setAttribute(
      "aria-label", `Waveform and spectrogram of take ${chosen + 1}, ${onsets} onsets marked`,
    );
    await player.load(blob, view);
    markTyped();
  } catch (error) {
    tell(error);
  }
}

async function download(format) {
  const take = takes[chosen], name = `${file.name.replace(/\.[^.]*$/, "")}.${take.seed}.${format}`;
  try {
    const query = `candidate=${take.candidate}&format=${format}&${mix()}`;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await server.content(take.id, query));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), KEPT_MS);
  } catch (error) {
    tell(error);
  }
}

// At the moment that is heard, a part begins or ends.
function markHere(which) {
  $(which).value = player.at.toFixed(2);
  markTyped();
}

function markTyped() {
  const from = Number($("from").value), to = Number($("to").value);
  if (to > from) player.mark(from, to);
  enable();
}

$("file").addEventListener("change", () => choose($("file").files[0]));
onDrop($("drop"), (files) => {
  $("file").files = files;
  choose($("file").files[0]);
});
$("example").addEventListener("click", async () => {
  try {
    const given = new DataTransfer();
    given.items.add(new File([await server.example()], "example.mp4", { type: "video/mp4" }));
    $("file").files = given.files;
    choose($("file").files[0]);
  } catch (error) {
    tell(error);
  }
});
$("ask").addEventListener("submit", (event) => { event.preventDefault(); make(); });
$("cancel").addEventListener("click", cancel);
$("again").addEventListener("click", again);
$("undo").addEventListener("click", undo);
$("play").addEventListener("click", () => player.toggle());
$("zoom").addEventListener("input", () => player.zoom(Number($("zoom").value)));
$("video").addEventListener("error", () => checkFilm(false));
$("video").addEventListener("loadedmetadata", () => checkFilm($("video").videoWidth > 0));
$("video").addEventListener("click", () => { if (!$("video").controls) player.toggle(); });
for (const id of ["from", "to"]) $(id).addEventListener("change", markTyped);
$("mix").addEventListener("change", listen);
$("gain").addEventListener("input", () => { $("gain-db").value = `${$("gain").value} dB`; });
$("gain").addEventListener("change", listen);
for (const button of document.querySelectorAll(".download")) {
  button.addEventListener("click", () => download(button.dataset.format));
}
onKeys((key, isFine) => {
  if ($("result").hidden) return null;
  const number = Number(key) - 1, step = isFine ? 0.04 : 1;
  return {
    " ": () => player.toggle(),
    ArrowLeft: () => player.move(-step),
    ArrowRight: () => player.move(step),
    i: () => markHere("from"),
    o: () => markHere("to"),
    // Not by a click, which the waveform swallows right after a drag.
    r: () => $("again").disabled || again(),
    u: () => $("undo").disabled || undo(),
  }[key] ?? (number >= 0 && number < takes.length ? () => chooseTake(number) : null);
});
// The server keeps what is asked for; nobody waits for what a page that is gone has asked for.
setInterval(() => { for (const id of idsOf(takes)) server.report(id).catch(() => {}); }, KEPT_MS);
addEventListener("pagehide", () => forget([...asked]));
addEventListener("pageshow", ({ persisted }) => { if (persisted) location.reload(); });

try {
  const [model] = await server.models();
  $("model").textContent = `${model.id} on ${model.device}`;
  $("kinds-label").hidden = !model.kinds.length;
  $("kinds").append(...model.kinds.map((kind) => new Option(kind)));
} catch (error) {
  tell(error);
}
