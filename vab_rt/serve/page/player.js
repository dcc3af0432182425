// The film and the waveform below it: one clock, that of the sound.

import WaveSurfer from "/page/wavesurfer/wavesurfer.esm.js";
import Regions from "/page/wavesurfer/regions.esm.js";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class Player {
  // onPart: called with seconds [from, to], or null where none is marked.
  constructor(wave, video, { onTime, onPart, onPlaying }) {
    this.video = video;
    this.regions = Regions.create();
    this.sound = WaveSurfer.create({ container: wave, height: 96, plugins: [this.regions] });
    this.paint();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
    this.regions.enableDragSelection({ color: colour("--part") });
    this.regions.on("region-created", (part) => {
      for (const other of this.regions.getRegions()) if (other !== part) other.remove();
      onPart([part.start, part.end]);
    });
    this.regions.on("region-updated", (part) => onPart([part.start, part.end]));
    this.sound.on("timeupdate", (at) => { this.follow(at); onTime(at); });
    this.sound.on("play", () => { this.video.play().catch(() => {}); onPlaying(true); });
    this.sound.on("pause", () => { this.video.pause(); onPlaying(false); });
  }

  paint() {
    this.sound.setOptions({
      waveColor: colour("--wave"), progressColor: colour("--accent"), cursorColor: colour("--text"),
    });
  }

  // Where the video is further off than the eye sees.
  follow(at) {
    if (Math.abs(this.video.currentTime - at) > 0.08) this.video.currentTime = at;
  }

  // Of several at once the last counts.
  async load(blob) {
    const at = this.sound.getCurrentTime();
    const marked = this.regions.getRegions().map(({ start, end }) => [start, end])[0];
    this.blob = blob;
    try {
      await this.sound.loadBlob(blob);
    } catch (error) {
      if (this.blob === blob) throw error;
      return;
    }
    if (at) this.sound.setTime(Math.min(at, this.sound.getDuration()));
    if (marked) this.mark(...marked);
  }

  mark(start, end) {
    this.regions.clearRegions();
    this.regions.addRegion({ start, end, color: colour("--part") });
  }

  clear() { this.regions.clearRegions(); this.sound.setTime(0); }
  move(seconds) {
    const at = this.sound.getCurrentTime() + seconds;
    this.sound.setTime(Math.min(Math.max(at, 0), this.sound.getDuration()));
  }
  toggle() { return this.sound.playPause(); }
}
