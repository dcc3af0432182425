// Sounds of one video, side by side. A take is {id, candidate, seed, score, before}: `before` is the
// take that undo brings back.

import * as server from "/page/server.js";
import { paint } from "/page/spectrogram.js";

export const takesOf = (report) => report.candidates.map(({ candidate, seed, score }) => (
  { id: report.id, candidate, seed, score, heard: new Map() }
));

// All ids that these and what undo brings back belong to.
export function idsOf(takes) {
  const ids = new Set();
  for (let take of takes) for (; take; take = take.before) ids.add(take.id);
  return ids;
}

// Its file and its spectrogram, mixed as wanted; asked for once.
export function hear(take, mix) {
  if (!take.heard.has(mix)) {
    const query = `candidate=${take.candidate}&${mix}`;
    const both = Promise.all([
      server.content(take.id, `${query}&format=wav`), server.spectrogram(take.id, query),
    ]);
    both.catch(() => take.heard.delete(mix));
    take.heard.set(mix, both);
  }
  return take.heard.get(mix);
}

export function showTakes(list, takes, chosen, onChosen) {
  list.replaceChildren(...takes.map((take, i) => card(take, i, i === chosen, () => onChosen(i))));
}

function card(take, i, isChosen, onChosen) {
  const label = document.createElement("label"), radio = document.createElement("input");
  const title = document.createElement("strong"), facts = document.createElement("span");
  const canvas = document.createElement("canvas");
  radio.type = "radio";
  radio.name = "take";
  radio.checked = isChosen;
  radio.addEventListener("change", onChosen);
  title.textContent = `Take ${i + 1}`;
  facts.textContent = [
    take.score === null ? "" : `score ${take.score.toFixed(3)}`,
    `seed ${take.seed}`,
    take.before ? "a part made anew" : "",
  ].filter(Boolean).join(", ");
  canvas.setAttribute("aria-hidden", "true");
  hear(take, "").then(([, view]) => paint(canvas, view)).catch(() => {});
  label.append(radio, title, facts, canvas);
  return label;
}
