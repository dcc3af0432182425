// Frames as vab-rt's reader scales them: bicubic (0, 0.6) as in FFmpeg's swscale, its kernel as wide
// as the scale, shortest side to `size`, centre crop.

const cubic = (x) => {
  const far = Math.abs(x);
  if (far < 1) return 1 + far * far * (1.4 * far - 2.4);
  return far < 2 ? 0.6 * (4 + far * (-8 + far * (5 - far))) : 0;
};

// For each of `count` places from `first` on of a side scaled from `from` to `to`: weights and where
// they begin.
function weights(from, to, first, count) {
  const ratio = from / to;
  const wide = Math.max(1, ratio);
  return Array.from({ length: count }, (_, i) => {
    const centre = (first + i + 0.5) * ratio - 0.5;
    const begin = Math.ceil(centre - 2 * wide);
    const own = [];
    for (let at = begin; at <= centre + 2 * wide; at++) own.push(cubic((at - centre) / wide));
    const sum = own.reduce((a, b) => a + b);
    return { begin, own: Float32Array.from(own, (weight) => weight / sum) };
  });
}

const even = (x) => (x % 1 === 0.5 ? 2 * Math.round(x / 2) : Math.round(x)); // Python's round

// What makes RGB [size, size, 3] of RGBA [height, width, 4].
export function resizer(width, height, size) {
  const short = Math.min(width, height);
  const [wide, high] = [width, height].map((side) => Math.floor((size * side) / short));
  const [left, top] = [wide, high].map((side) => even((side - size) / 2));
  const across = weights(width, wide, left, size);
  const down = weights(height, high, top, size);
  const rows = new Float32Array(height * size * 3);
  return (pixels) => {
    for (let y = 0, to = 0; y < height; y++) {
      for (const { begin, own } of across) {
        let [r, g, b] = [0, 0, 0];
        for (let k = 0; k < own.length; k++) {
          const at = 4 * (y * width + Math.min(Math.max(begin + k, 0), width - 1));
          r += own[k] * pixels[at];
          g += own[k] * pixels[at + 1];
          b += own[k] * pixels[at + 2];
        }
        rows[to++] = r;
        rows[to++] = g;
        rows[to++] = b;
      }
    }
    const image = new Uint8ClampedArray(size * size * 3);
    const sums = new Float32Array(size * 3);
    down.forEach(({ begin, own }, y) => {
      sums.fill(0);
      own.forEach((weight, k) => {
        const from = Math.min(Math.max(begin + k, 0), height - 1) * size * 3;
        for (let x = 0; x < sums.length; x++) sums[x] += weight * rows[from + x];
      });
      image.set(sums, y * size * 3);
    });
    return image;
  };
}
