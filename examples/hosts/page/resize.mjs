// Frames as vab-rt's reader scales them: bicubic (0, 0.6) as in FFmpeg's swscale, its kernel as wide
// as the scale, shortest side to `size`, centre crop.

const cubic = (x) => {
  const far = Math.abs(x);
  if (far < 1) return 1 + far * far * (1.4 * far - 2.4);
  return far < 2 ? 0.6 * (4 + far * (-8 + far * (5 - far))) : 0;
};

// For each of `count` places from `first` on of a side scaled from `from` to `to`: weights, and of what.
function weights(from, to, first, count) {
  const ratio = from / to;
  const wide = Math.max(1, ratio);
  return Array.from({ length: count }, (_, i) => {
    const centre = (first + i + 0.5) * ratio - 0.5;
    const begin = Math.ceil(centre - 2 * wide);
    const [own, places] = [[], []];
    for (let at = begin; at <= centre + 2 * wide; at++) {
      own.push(cubic((at - centre) / wide));
      places.push(Math.min(Math.max(at, 0), from - 1));
    }
    const sum = own.reduce((a, b) => a + b);
    return { own: Float32Array.from(own, (weight) => weight / sum), places: Int32Array.from(places) };
  });
}

const even = (x) => (x % 1 === 0.5 ? 2 * Math.round(x / 2) : Math.round(x)); // Python's round

// What makes float [size, size] of one plane of a picture: bytes `step` apart in rows of `stride`, each for
// `shares` x `shares` pixels.
function scaler(width, height, size, shares = 1) {
  const [columns, lines] = [width, height].map((side) => Math.ceil(side / shares));
  const [wide, high] = [width, height].map((side) => Math.floor((size * side) / Math.min(width, height)));
  const across = weights(columns, wide, even((wide - size) / 2), size);
  const down = weights(lines, high, even((high - size) / 2), size);
  const rows = new Float32Array(lines * size);
  return (bytes, { offset, stride, step }) => {
    for (let y = 0, to = 0; y < lines; y++) {
      const line = offset + y * stride;
      for (const { own, places } of across) {
        let sum = 0;
        for (let k = 0; k < own.length; k++) sum += own[k] * bytes[line + places[k] * step];
        rows[to++] = sum;
      }
    }
    const scaled = new Float32Array(size * size);
    down.forEach(({ own, places }, y) => {
      own.forEach((weight, k) => {
        const from = places[k] * size;
        for (let x = 0; x < size; x++) scaled[y * size + x] += weight * rows[from + x];
      });
    });
    return scaled;
  };
}

// What makes RGB [size, size, 3] of RGBA [height, width, 4].
export function rgbResizer(width, height, size) {
  const scale = scaler(width, height, size);
  return (bytes) => {
    const image = new Uint8ClampedArray(size * size * 3);
    for (let channel = 0; channel < 3; channel++) {
      const plane = scale(bytes, { offset: channel, stride: 4 * width, step: 4 });
      plane.forEach((value, i) => (image[3 * i + channel] = value));
    }
    return image;
  };
}

// Kr and Kb of ITU-R BT.601, BT.709 and BT.2020, by WebCodecs' names; as swscale, 601 where none is told.
const MATRICES = { bt709: [0.2126, 0.0722], "bt2020-ncl": [0.2627, 0.0593] };
const BT601 = [0.299, 0.114];

// What makes the same of three planes, the colours' in half the width and height.
export function yuvResizer(width, height, size) {
  const [scale, scaleHalf] = [scaler(width, height, size), scaler(width, height, size, 2)];
  return (bytes, planes, { matrix, fullRange }) => {
    const [luma, ...colours] = planes;
    const [y, u, v] = [scale(bytes, luma), ...colours.map((plane) => scaleHalf(bytes, plane))];
    const [kr, kb] = MATRICES[matrix] ?? BT601;
    const [black, lumaRange, colourRange] = fullRange ? [0, 255, 255] : [16, 219, 224];
    const image = new Uint8ClampedArray(size * size * 3);
    for (let i = 0; i < y.length; i++) {
      const light = (255 * (y[i] - black)) / lumaRange;
      const blue = (510 * (1 - kb) * (u[i] - 128)) / colourRange;
      const red = (510 * (1 - kr) * (v[i] - 128)) / colourRange;
      image[3 * i] = light + red;
      image[3 * i + 1] = light - (kb * blue + kr * red) / (1 - kr - kb);
      image[3 * i + 2] = light + blue;
    }
    return image;
  };
}
