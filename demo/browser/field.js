// The field of view: where the picture lies in a frame with a black border and text, as field_of_view_unet.py finds it.

import { runsAbove } from "./regions.js";

// The rule of find_field_of_view in field_of_view_unet.py, which explains the numbers.
const SAMPLES = 512;
const CELL = 4;
const MOST_BLACK = 32;
const [CONTRAST, DEVIATIONS, NOISE] = [6, 3, 10];
const CORE = 0.2;
const [GAP, LIT_IN_GAP] = [0.015, 0.2];
const [LIT_BESIDE, LIT_AT_SIDE] = [0.5, 0.25];
const SMALLEST_BORDER = 0.015;
const [SMALLEST_PICTURE, OTHER_PICTURE] = [0.2, 0.3];

/**
 * The rectangle of a frame that the network is to see.
 *
 * @param {null|"auto"|number[]} setting Of the model: null for all of the frame; or left, top, right, bottom in pixels.
 * @param {Uint8Array} frame Red, green and blue of each pixel, row by row.
 * @returns {?number[]} Left, top, right and bottom; null if it is all of the frame.
 * @throws {RangeError} If the setting's rectangle does not lie within the frame.
 */
export function chooseBox(setting, frame, width, height) {
  if (setting === null) return null;
  if (setting === "auto") return findField(frame, width, height);
  const [left, top, right, bottom] = setting;
  if (right > width || bottom > height) {
    throw new RangeError(
      `the model's field of view ${setting} (left, top, right, bottom) does not lie within these ${width}x${height} ` +
        "pixels",
    );
  }
  return left === 0 && top === 0 && right === width && bottom === height ? null : setting;
}

/** What a frame shows in a rectangle, as a frame. */
export function cropTo(frame, width, [left, top, right, bottom]) {
  const cropped = new Uint8Array(3 * (right - left) * (bottom - top));
  for (let row = top, to = 0; row < bottom; row++, to += 3 * (right - left)) {
    cropped.set(frame.subarray(3 * (row * width + left), 3 * (row * width + right)), to);
  }
  return cropped;
}

/** A map of a rectangle as one of the whole frame, 0 outside. */
export function inWholeFrame(values, [left, top, right, bottom], width, height) {
  const whole = new Float32Array(width * height);
  for (let row = top, from = 0; row < bottom; row++, from += right - left) {
    whole.set(values.subarray(from, from + right - left), row * width + left);
  }
  return whole;
}

/** The rectangle of the picture; null if it is all of the frame, or none that is sure. */
function findField(frame, width, height) {
  const step = Math.ceil(Math.max(width, height) / SAMPLES);
  const [columns, rows] = [Math.ceil(width / step), Math.ceil(height / step)];
  if (Math.min(columns, rows) < 4 * CELL) return null;
  const levelAt = (x, y) => {
    const place = 3 * (y * width + x);
    return Math.max(frame[place], frame[place + 1], frame[place + 2]);
  };
  const levels = new Uint8Array(columns * rows);
  for (let y = 0, place = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) levels[place++] = levelAt(x * step, y * step);
  }
  const black = edgeLevel(levels, columns, rows);
  if (black > MOST_BLACK) return null;
  const threshold = thresholdOf(levels, black);
  const brighter = levels.filter((level) => level > threshold);
  if (!brighter.length) return null;
  const cells = pictureCells(levels, columns, rows, Math.max(threshold, CORE * median(brighter)));
  if (!cells) return null;
  const isLit = (x, y) => levels[y * columns + x] > threshold;
  const [left, top, right, bottom] = boxOfCells(cells, isLit, columns, rows);
  const { columns: across, rows: down, isPicture } = cells;
  // Each side as the left one of the frame turned or mirrored.
  const upright = { width, height, levelAt, across, down, isPicture };
  const sides = [
    [upright, left],
    [turned(upright), top],
    [mirrored(upright), columns - right],
    [mirrored(turned(upright)), rows - bottom],
  ];
  const borders = sides.map(([seen, samples]) => border(seen, samples, threshold, step));
  return borders.some(Boolean) ? [borders[0], borders[1], width - borders[2], height - borders[3]] : null;
}

/** A frame and its cells, with rows for columns. */
const turned = ({ width, height, levelAt, across, down, isPicture }) => ({
  width: height,
  height: width,
  levelAt: (x, y) => levelAt(y, x),
  across: down,
  down: across,
  isPicture: (x, y) => isPicture(y, x),
});

/** A frame and its cells, with left for right. */
const mirrored = (seen) => ({
  ...seen,
  levelAt: (x, y) => seen.levelAt(seen.width - 1 - x, y),
  isPicture: (x, y) => seen.isPicture(seen.across - 1 - x, y),
});

/** The level that a tenth of the pixels along the frame's edge do not exceed; its corners count twice. */
function edgeLevel(levels, columns, rows) {
  const edge = [];
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const level = levels[y * columns + x];
      if (y < CELL || y >= rows - CELL) edge.push(level);
      if (x < CELL || x >= columns - CELL) edge.push(level);
    }
  }
  return Uint8Array.from(edge).sort()[Math.floor(edge.length / 10)];
}

/** The level that lit pixels exceed, by the noise of those that may belong to the border. */
function thresholdOf(levels, black) {
  const dark = levels.filter((level) => level <= black + NOISE);
  const mean = dark.reduce((sum, level) => sum + level, 0) / dark.length;
  const variance = dark.reduce((sum, level) => sum + (level - mean) ** 2, 0) / dark.length;
  return mean + Math.max(CONTRAST, DEVIATIONS * Math.sqrt(variance));
}

function median(levels) {
  const sorted = levels.slice().sort();
  const half = Math.floor(sorted.length / 2);
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

/** The cells of the picture, as { columns, rows, isPicture(x, y) }; null if no region of them is large enough. */
function pictureCells(levels, width, height, threshold) {
  const [columns, rows] = [Math.floor(width / CELL), Math.floor(height / CELL)];
  const counts = new Uint8Array(columns * rows);
  for (let y = 0; y < rows * CELL; y++) {
    for (let x = 0; x < columns * CELL; x++) {
      if (levels[y * width + x] > threshold) counts[Math.floor(y / CELL) * columns + Math.floor(x / CELL)]++;
    }
  }
  const areas = new Map();
  const runs = runsAbove(counts, columns, Math.floor((CELL * CELL) / 2));
  for (const { start, end, region } of runs) areas.set(region, (areas.get(region) ?? 0) + end - start);
  const largest = Math.max(0, ...areas.values());
  const picture = new Uint8Array(columns * rows);
  for (const { start, end, region } of runs) {
    if (areas.get(region) >= OTHER_PICTURE * largest) picture.fill(1, start, end);
  }
  const area = picture.reduce((sum, cell) => sum + cell, 0);
  const isPicture = (x, y) => picture[y * columns + x] === 1;
  return area > 0 && area >= SMALLEST_PICTURE * picture.length ? { columns, rows, isPicture } : null;
}

/** The bounding box of the picture's cells in samples, moved outwards to where it is black. */
function boxOfCells({ columns, rows, isPicture }, isLit, width, height) {
  const [xs, ys] = [[], []];
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      if (!isPicture(x, y)) continue;
      xs.push(x);
      ys.push(y);
    }
  }
  const least = (values) => values.reduce((a, b) => Math.min(a, b));
  const most = (values) => values.reduce((a, b) => Math.max(a, b));
  const [left, top] = [least(xs) * CELL, least(ys) * CELL];
  // What does not fill a cell, at the right and below, goes with the last one.
  const right = most(xs) === columns - 1 ? width : (most(xs) + 1) * CELL;
  const bottom = most(ys) === rows - 1 ? height : (most(ys) + 1) * CELL;
  const share = (from, to, lit) => {
    let count = 0;
    for (let place = from; place < to; place++) count += lit(place);
    return count / (to - from);
  };
  const across = Array.from({ length: width }, (_, x) => share(top, bottom, (y) => isLit(x, y)));
  const down = Array.from({ length: height }, (_, y) => share(left, right, (x) => isLit(x, y)));
  return [
    width - toBlack(across.slice().reverse(), width - left),
    height - toBlack(down.slice().reverse(), height - top),
    toBlack(across, right),
    toBlack(down, bottom),
  ];
}

/** The first place from `end` on behind which a strip is black but for text, by the lit share of each line. */
function toBlack(shares, end) {
  const gap = Math.max(1, Math.round(GAP * shares.length));
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  while (end < shares.length && mean(shares.slice(end, end + gap)) > LIT_IN_GAP) end++;
  return end;
}

/** The width in pixels of the border at the left of a frame: up to the first column that is lit. */
function border({ width, levelAt, across: columns, down: rows, isPicture }, samples, threshold, step) {
  if (samples === 0) return 0;
  const isColumn = (x) => Array.from({ length: rows }, (_, y) => y).some((y) => isPicture(x, y));
  let first = 0;
  while (!isColumn(first)) first++;
  const near = [];
  for (let y = 0; y < rows; y++) {
    if (![first, first + 1, first + 2].some((x) => x < columns && isPicture(x, y))) continue;
    for (let sample = y * CELL; sample < (y + 1) * CELL; sample++) near.push(sample * step);
  }
  const reach = step * CELL;
  const [start, end] = [Math.max(0, samples * step - reach), Math.min(width, samples * step + 2 * reach)];
  const inside = [];
  for (let x = Math.max(start, end - reach); x < end; x++) {
    for (const y of near) if (levelAt(x, y) > threshold) inside.push(levelAt(x, y));
  }
  const least = inside.length ? Math.max(threshold, LIT_BESIDE * median(Uint8Array.from(inside))) : threshold;
  let found = samples * step;
  for (let x = start; x < end; x++) {
    if (near.filter((y) => levelAt(x, y) > least).length < LIT_AT_SIDE * near.length) continue;
    found = x;
    break;
  }
  return found > SMALLEST_BORDER * width ? found : 0;
}
