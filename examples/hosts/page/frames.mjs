// Frames of a video's first clip: decoded in one pass where browser and file allow it, else sought.

import { rgbResizer, yuvResizer } from "./resize.mjs";
import { readTrack } from "./track.mjs";

const MAX_QUEUED = 8;
const MAX_LATE_MS = 500;

export const WRONG_VIDEO =
  "this browser cannot play that file, expected a video such as mp4 (H.264) or webm; convert it";

export function once(target, happens) {
  return new Promise((done, failed) => {
    target.addEventListener(happens, done, { once: true });
    target.addEventListener("error", () => failed(new Error(WRONG_VIDEO)), { once: true });
  });
}

export async function seek(video, seconds) {
  const there = once(video, "seeked");
  const [before, shown] = [timestampOf(video), nextShown(video)];
  video.currentTime = seconds;
  await there;
  if (timestampOf(video) === before) await shown(); // the same again, or not yet the new one
}

// To be called when the next frame should be there; waits for it, which may come after "loadeddata"
// and "seeked". Of pages that nobody sees no browser tells.
export function nextShown(video) {
  const begin = performance.now();
  const told = new Promise((done) => {
    const look = (_, { presentationTime }) => (presentationTime < begin ? ask() : done()); // of before
    const ask = () => video.requestVideoFrameCallback?.(look);
    ask();
  });
  return () => {
    const patience = document.hidden || !video.requestVideoFrameCallback ? 0 : MAX_LATE_MS;
    return Promise.race([told, new Promise((done) => setTimeout(done, patience))]);
  };
}

function timestampOf(video) {
  if (!self.VideoFrame) return undefined;
  const frame = new VideoFrame(video);
  const { timestamp } = frame;
  frame.close();
  return timestamp;
}

// Frames uint8, and larger ones where the model takes them, of the file that the element `video` plays.
export async function readFrames(file, video, model, tell = () => {}) {
  try {
    return await decodedFrames(file, video, model, tell);
  } catch (error) {
    console.debug(`frames are sought: ${error.message}`);
    return await soughtFrames(video, model, tell);
  }
}

// In one pass, by WebCodecs. Throws where they could be others than a player shows.
async function decodedFrames(file, video, model, tell) {
  const track = await readTrack(file);
  const { supported } = await VideoDecoder.isConfigSupported(track.config);
  if (!supported) throw new Error(`no decoder of ${track.config.codec}`);
  const wanted = samplesShown(track, model);
  const clip = gather(video, model, wanted.length, tell, yuvResizer);
  const last = track.samples.findLastIndex((sample) => wanted.includes(sample));
  let before = -Infinity;
  let bytes;
  await decode(track.config, chunks(file, track, last), async (frame) => {
    const { timestamp, displayWidth, displayHeight, colorSpace } = frame;
    if (displayWidth !== video.videoWidth || displayHeight !== video.videoHeight || timestamp <= before) {
      throw new Error("frames of another size or order than the file says");
    }
    before = timestamp;
    const times = wanted.filter((sample) => microseconds(track, sample) === timestamp).length;
    if (times === 0) return;
    bytes ??= new Uint8Array(frame.allocationSize());
    const planes = planesOf(frame.format, await frame.copyTo(bytes));
    clip.add(times, bytes, planes, colorSpace);
  });
  return clip.whole();
}

// Where luma, blue and red lie.
function planesOf(format, layout) {
  if (format === "I420") return layout.map((plane) => ({ ...plane, step: 1 }));
  if (format !== "NV12") throw new Error(`pixels of format ${format}`);
  const [luma, { offset, stride }] = layout;
  return [{ ...luma, step: 1 }, { offset, stride, step: 2 }, { offset: offset + 1, stride, step: 2 }];
}

// For moment (i + 0.5) / rate of the clip each, the sample on display.
function samplesShown({ shown, begin, end, timescale }, model) {
  const [count] = model.shapes.frames;
  const ticks = (at) => (at - begin) * 2 * count; // whole numbers, so that no tie is lost
  const moment = (i) => (2 * i + 1) * timescale * model.clipS;
  const wanted = [];
  for (let i = 0, at = 0; i < count && (i === 0 || moment(i) < ticks(end)); i++) {
    while (at + 1 < shown.length && ticks(shown[at + 1].cts) <= moment(i)) at++;
    wanted.push(shown[at]);
  }
  return wanted;
}

const microseconds = ({ begin, timescale }, { cts }) => Math.round(((cts - begin) * 1e6) / timescale);

async function* chunks(file, track, last) {
  for (const sample of track.samples.slice(0, last + 1)) {
    const { offset, size, is_sync: isKey } = sample;
    const data = await file.slice(offset, offset + size).arrayBuffer();
    if (data.byteLength !== size) throw new Error("the file is cut short");
    yield new EncodedVideoChunk({
      type: isKey ? "key" : "delta",
      timestamp: microseconds(track, sample),
      data,
    });
  }
}

// Shows each frame, one after the other; throws what `show`, `chunks` and the decoder do.
async function decode(config, chunks, show) {
  let failed;
  const broken = new Promise((_, reject) => (failed = reject));
  let shown = Promise.resolve();
  const output = (frame) => {
    shown = shown.then(() => show(frame)).finally(() => frame.close());
    shown.catch(failed);
  };
  const decoder = new VideoDecoder({ output, error: failed });
  const feed = async () => {
    decoder.configure(config);
    for await (const chunk of chunks) {
      while (decoder.decodeQueueSize >= MAX_QUEUED) await once(decoder, "dequeue");
      await shown; // so that few frames wait in memory
      decoder.decode(chunk);
    }
    await decoder.flush();
    await shown;
  };
  try {
    await Promise.race([broken, feed()]);
  } finally {
    if (decoder.state !== "closed") decoder.close();
  }
}

async function soughtFrames(video, model, tell) {
  const [count] = model.shapes.frames;
  const rate = count / model.clipS;
  const end = Math.max(video.duration, 1e-3);
  const times = [Math.min(0.5 / rate, end / 2)];
  for (let i = 1; i < count && (i + 0.5) / rate < end; i++) times.push((i + 0.5) / rate);
  const clip = gather(video, model, times.length, tell, rgbResizer);
  const { videoWidth: width, videoHeight: height } = video;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  for (const seconds of times) {
    await seek(video, seconds);
    context.drawImage(video, 0, 0);
    clip.add(1, context.getImageData(0, 0, width, height).data);
  }
  return clip.whole();
}

// Takes pixels, each picture for one moment or more, and gives frames.
function gather({ videoWidth: width, videoHeight: height }, model, expected, tell, resizer) {
  const [count, size] = model.shapes.frames;
  const [numImages, imageSize] = model.shapes.images ?? [0, 0];
  const stride = Math.ceil(count / numImages);
  const [small, large] = [resizer(width, height, size), numImages && resizer(width, height, imageSize)];
  const [frames, images] = [[], []];
  return {
    add(times, ...pixels) {
      const frame = small(...pixels);
      for (let i = 0; i < times; i++) {
        if (numImages && frames.length % stride === 0) images.push(large(...pixels));
        frames.push(frame);
      }
      tell(frames.length / expected);
    },
    whole() {
      if (frames.length !== expected) throw new Error(`${frames.length} frames, expected ${expected}`);
      return { frames: joined(frames), images: numImages ? joined(images) : undefined };
    },
  };
}

function joined(parts) {
  const whole = new Uint8Array(parts.length * parts[0].length);
  parts.forEach((part, i) => whole.set(part, i * part.length));
  return whole;
}
