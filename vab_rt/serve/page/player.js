// The film, and below it waveform, spectrogram and seconds: one clock, that of the sound.

import { mark, paint } from "/page/spectrogram.js";
import WaveSurfer from "/page/wavesurfer/wavesurfer.esm.js";
import Regions from "/page/wavesurfer/regions.esm.js";
import Timeline from "/page/wavesurfer/timeline.esm.js";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class Player {
  // onPart: called with seconds [from, to].
  constructor(wave, video, { onTime, onPart, onPlaying }) {
    this.video = video;
    this.regions = Regions.create();
    this.sound = WaveSurfer.create({ container: wave, height: 80, plugins: [this.regions] });
    this.addSpectrogram();
    this.sound.registerPlugin(Timeline.create({ height: 18, secondaryLabelOpacity: 1 }));
    this.paint();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
    this.regions.enableDragSelection({ color: colour("--part") });
    this.regions.on("region-created", (part) => {
      for (const other of this.regions.getRegions()) if (other !== part) other.remove();
      onPart([part.start, part.end]);
    });
    this.regions.on("region-updated", (part) => onPart([part.start, part.end]));
    this.sound.on("timeupdate", (at) => {
      this.follow(at);
      onTime(at, this.sound.getDuration());
    });
    this.sound.on("ready", (length) => onTime(this.at, length));
    this.sound.on("play", () => { this.video.play().catch(() => {}); onPlaying(true); });
    this.sound.on("pause", () => { this.video.pause(); onPlaying(false); });
  }

  // In the waveform's own box: it is scrolled, clicked and dragged over as that is.
  addSpectrogram() {
    const box = document.createElement("div");
    [this.bands, this.marks] = [document.createElement("canvas"), document.createElement("canvas")];
    box.style.cssText = "position: relative; height: 110px";
    for (const canvas of [this.bands, this.marks]) {
      canvas.style.cssText = "position: absolute; inset: 0; width: 100%; height: 100%";
      box.append(canvas);
    }
    this.sound.getWrapper().append(box);
    new ResizeObserver(() => this.view && mark(this.marks, this.view)).observe(box);
  }

  paint() {
    this.sound.setOptions({
      waveColor: colour("--wave"), progressColor: colour("--accent"), cursorColor: colour("--cursor"),
    });
  }

  // Where the video is further off than the eye sees.
  follow(at) {
    if (Math.abs(this.video.currentTime - at) > 0.08) this.video.currentTime = at;
  }

  // Of several at once the last counts; one that comes while another plays goes on from there.
  async load(blob, view) {
    const at = this.at, plays = this.sound.isPlaying();
    this.blob = blob;
    try {
      await this.sound.loadBlob(blob);
    } catch (error) {
      if (this.blob === blob) throw error;
      return;
    }
    if (this.blob !== blob) return;
    this.view = view;
    paint(this.bands, view);
    mark(this.marks, view);
    // Unless it was moved meanwhile.
    if (at && !this.at) this.move(at);
    if (plays) await this.sound.play();
  }

  mark(start, end) {
    this.regions.clearRegions();
    if (!this.sound.getDuration()) return;
    this.regions.addRegion({ start, end, color: colour("--part") });
  }

  clear() { this.stop(); this.regions.clearRegions(); this.move(-this.at); }
  stop() { this.sound.pause(); }
  get at() { return this.sound.getCurrentTime(); }
  // Not by the sound's setTime, which forgets a move that comes before the last one is done.
  move(seconds) {
    const to = Math.min(Math.max(this.at + seconds, 0), this.sound.getDuration());
    this.sound.getMediaElement().currentTime = to;
  }
  toggle() { return this.sound.playPause(); }
  zoom(pixelsPerSecond) { if (this.view) this.sound.zoom(pixelsPerSecond); }
}
