// Bands of a sound in colours, low ones below, and marks where it strikes.

const RANGE_DB = 60, LEAST_LOUDEST_DB = -30;
// Black, violet, red, orange, pale yellow: lightness rises evenly, as in matplotlib's magma (CC0).
const STEPS = [
  [0, 0, 4], [28, 16, 68], [79, 18, 123], [129, 37, 129], [181, 54, 122],
  [229, 80, 100], [251, 135, 97], [254, 194, 135], [252, 253, 191],
];
const MARK = "#0ff", MARK_SHARE = 0.14, MARK_WIDTH = 2;

// One column of pixels for each of the sound, one row for each band.
export function paint(canvas, view) {
  const levels = Uint8Array.from(atob(view.levels), (byte) => byte.charCodeAt(0));
  const { num_columns: columns, num_bands: bands } = view;
  const image = new ImageData(columns, bands);
  const colours = palette(levels, view.floor_db);
  for (let column = 0; column < columns; column++) {
    for (let band = 0; band < bands; band++) {
      const pixel = 4 * ((bands - 1 - band) * columns + column);
      image.data.set(colours[levels[column * bands + band]], pixel);
    }
  }
  canvas.width = columns;
  canvas.height = bands;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// On a canvas of its own, so that marks are as wide on every screen.
export function mark(canvas, view) {
  const pen = canvas.getContext("2d");
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
  canvas.height = Math.max(1, Math.round(canvas.clientHeight * devicePixelRatio));
  const wide = MARK_WIDTH * devicePixelRatio;
  pen.fillStyle = MARK;
  for (const at of view.onsets_s) {
    pen.fillRect((at / view.duration_s) * canvas.width - wide / 2, 0, wide, MARK_SHARE * canvas.height);
  }
}

// A colour [red, green, blue, alpha] for each byte.
function palette(levels, floorDb) {
  const db = (byte) => floorDb * (1 - byte / 255);
  const loudest = Math.max(LEAST_LOUDEST_DB, db(levels.reduce((most, byte) => Math.max(most, byte), 0)));
  return Array.from({ length: 256 }, (_, byte) => {
    const share = Math.min(1, Math.max(0, (db(byte) - loudest) / RANGE_DB + 1)) * (STEPS.length - 1);
    const below = Math.min(STEPS.length - 2, Math.floor(share)), part = share - below;
    return [...STEPS[below].map((from, i) => from + part * (STEPS[below + 1][i] - from)), 255];
  });
}
