// The picture track of an mp4 or mov file: when each of its samples is shown, and where it lies.

import { createFile, DataStream, Endianness, MP4BoxBuffer } from "./mp4box.all.mjs";

const STEP = 1 << 20;
const BT601 = { matrix: "smpte170m", primaries: "smpte170m", transfer: "smpte170m", fullRange: false };

// Throws where a decoder alone would not show what a player shows.
export async function readTrack(file) {
  const { mp4, info } = await readIndex(file);
  const [track, ...others] = info.videoTracks;
  if (!track || others.length) throw new Error("not one plain track of pictures");
  const { samples, mdia } = mp4.getTrackById(track.id);
  if (samples.some(({ description_index: at }) => at !== 0)) throw new Error("more than one format");
  const isTurned = ({ matrix }) => [65536, 0, 0, 65536].some((unit, i) => matrix[i + (i > 1)] !== unit);
  if (isTurned(track) || isTurned(mp4.moov.mvhd)) throw new Error("turned or scaled");
  const shown = samples.toSorted((a, b) => a.cts - b.cts);
  const [first, last] = [shown[0], shown.at(-1)];
  const until = endOfEdit(track, first);
  if (!(last.cts < until)) throw new Error("an edit list that cuts or delays");
  const [begin, end] = [first.cts, Math.min(last.cts + last.duration, until)];
  return { samples, shown, begin, end, timescale: track.timescale, config: config(track, mdia) };
}

// All but the pictures; of a fragmented file, which has its index throughout, them too.
async function readIndex(file) {
  const mp4 = createFile();
  let [info, wrong] = [];
  mp4.onReady = (found) => (info = found);
  mp4.onError = (_, text) => (wrong = text);
  for (let at = 0, before = -1; (!info || info.isFragmented) && before < at && at < file.size; ) {
    const bytes = await file.slice(at, at + STEP).arrayBuffer();
    [before, at] = [at, mp4.appendBuffer(MP4BoxBuffer.fromArrayBuffer(bytes, at))];
  }
  if (!info) throw new Error(wrong ?? "not mp4 or mov");
  return { mp4, info };
}

// Until when the track is shown, in its ticks; NaN where its edit list does not begin with the first picture.
function endOfEdit({ edits, timescale, movie_timescale: tick }, first) {
  if (!edits?.length) return Infinity;
  const [{ media_time: from, media_rate_integer: rate, segment_duration: length }, ...others] = edits;
  if (others.length || rate !== 1 || !(0 <= from && from <= first.cts)) return NaN;
  return length ? from + Math.round((length * timescale) / tick) : Infinity;
}

// What a decoder must know. Colours that a stream does not explain are BT.601, as for swscale: in Chromium
// the stream goes before this (userAgentData is Chromium's), in others it may not, which guess themselves.
function config({ codec, video: { width, height } }, mdia) {
  const [entry] = mdia.minf.stbl.stsd.entries;
  const box = entry.avcC ?? entry.hvcC;
  if (!box) throw new Error(`${codec}, neither H.264 nor H.265`);
  const stream = new DataStream(undefined, 0, Endianness.BIG_ENDIAN);
  box.write(stream);
  const description = new Uint8Array(stream.buffer, 8); // without the box's own size and name
  const told = { codec, codedWidth: width, codedHeight: height, description };
  return navigator.userAgentData ? { ...told, colorSpace: BT601 } : told;
}
