// Decides what is a polyp in a map of probabilities, as regions_unet.py does: which regions count, and presence.
// Measures the regions, as inference/lesions.py does.

const SMALLEST_PROBABILITY = 1e-6; // probabilities are kept so far from 0 and 1 that their logit is finite
const METADATA = 14; // number of the field `metadata_props` in ONNX's message ModelProto; an entry has 1 key, 2 value

/**
 * Threshold a map, and keep the regions whose highest probability reaches a second threshold.
 *
 * A region is a set of pixels above `threshold` that touch, at a side or at a corner.
 *
 * @param {Float32Array} probability Of height times width pixels, row by row.
 * @param {?number} peak Null, or a value that is not above `threshold`, keeps all regions.
 * @returns {Uint8Array} The mask: 1 for polyp, 0 for background.
 */
export function keepPeaks(probability, width, threshold, peak) {
  // In float32, as in Python and in the graph.
  const [low, high] = [Math.fround(threshold), Math.fround(peak ?? 0)];
  if (high <= low) return Uint8Array.from(probability, (value) => value > low);
  const kept = new Set();
  const runs = runsAbove(probability, width, low);
  for (const { start, end, region } of runs) {
    if (probability.subarray(start, end).some((value) => value >= high)) kept.add(region);
  }
  const mask = new Uint8Array(probability.length);
  for (const { start, end, region } of runs) if (kept.has(region)) mask.fill(1, start, end);
  return mask;
}

/**
 * The regions of a mask, the largest first, as inference/lesions.py finds them.
 *
 * @param {Uint8Array} mask Of height times width pixels, row by row: 1 for polyp.
 * @param {Float32Array} probability
 * @returns {{box: number[], centroid: number[], pixels: number, share: number, probability: number}[]} First column,
 *   first row, and column and row after the last; mean column and row; area, in pixels and as a share of the image;
 *   mean probability.
 */
export function findRegions(mask, probability, width) {
  const regions = new Map();
  for (const { start, end, region } of runsAbove(mask, width, 0)) {
    const [row, left, length] = [Math.floor(start / width), start % width, end - start];
    if (!regions.has(region)) regions.set(region, { box: [left, row, 0, 0], sums: [0, 0, 0], pixels: 0 });
    const found = regions.get(region);
    const [firstColumn, firstRow, afterColumn] = found.box;
    found.box = [Math.min(firstColumn, left), firstRow, Math.max(afterColumn, left + length), row + 1];
    found.pixels += length;
    found.sums[0] += length * (left + (length - 1) / 2);
    found.sums[1] += length * row;
    for (let pixel = start; pixel < end; pixel++) found.sums[2] += probability[pixel];
  }
  const measured = [...regions.values()].map(({ box, sums, pixels }) => {
    const [column, row, mean] = sums.map((sum) => sum / pixels);
    return { box, centroid: [column, row], pixels, share: pixels / mask.length, probability: mean };
  });
  return measured.sort((a, b) => b.pixels - a.pixels); // of equal ones, the first in the image stays first
}

/**
 * The runs of values above `low` in each row, and the region of each: runs that touch, at a side or at a corner, are
 * of one region, whose number is that of its first run.
 *
 * @returns {{start: number, end: number, region: number}[]} First index, index after the last, and the region.
 */
export function runsAbove(values, width, low) {
  const runs = [];
  const regionOf = (run) => {
    while (runs[run].region !== run) run = runs[run].region = runs[runs[run].region].region;
    return run;
  };
  const join = (run, other) => {
    const [first, last] = [regionOf(run), regionOf(other)].sort((a, b) => a - b);
    runs[last].region = first;
  };
  for (let row = 0, above = 0; row < values.length; row += width) {
    const first = runs.length; // of this row; those of the row above are from `above` on
    for (let pixel = row; pixel < row + width; pixel++) {
      if (!(values[pixel] > low)) continue;
      const run = { start: pixel, end: pixel, region: runs.length };
      while (run.end < row + width && values[run.end] > low) run.end++;
      runs.push(run);
      // Runs touch if they overlap or meet at a corner. One that ends before this begins touches no later one either.
      while (above < first && runs[above].end + width < run.start) above++;
      for (let other = above; other < first && runs[other].start + width <= run.end; other++) join(run.region, other);
      pixel = run.end;
    }
    above = first;
  }
  return runs.map(({ start, end }, run) => ({ start, end, region: regionOf(run) }));
}

/**
 * The probability that a frame shows a polyp at all.
 *
 * @param {number} peak Highest probability of the frame.
 * @param {?[number, number]} calibration Scale and offset; without them it is `peak`.
 */
export function presenceOf(peak, calibration) {
  if (!calibration) return peak;
  const [scale, offset] = calibration;
  const clipped = Math.min(Math.max(peak, SMALLEST_PROBABILITY), 1 - SMALLEST_PROBABILITY);
  return 1 / (1 + Math.exp(-(scale * Math.log(clipped / (1 - clipped)) + offset)));
}

/**
 * How the model that was exported decides: `peak_threshold`, `presence_calibration` and `field_of_view` of its image
 * processor.
 *
 * export.py writes them into the ONNX file, whose metadata ONNX Runtime for browsers does not give out.
 *
 * @param {Uint8Array} content Of the ONNX file.
 * @returns {{peak: ?number, calibration: ?[number, number], field: null|"auto"|number[]}} Null where the file states
 *   none.
 * @throws {TypeError} If it states something else: anyone may have made the file.
 */
export function readDecision(content) {
  let settings = {};
  try {
    for (const [number, entry] of fieldsOf(content)) {
      if (number !== METADATA) continue;
      const [name, value] = [1, 2].map((key) => new TextDecoder().decode(new Map(fieldsOf(entry)).get(key)));
      if (name === "preprocessor") settings = JSON.parse(value);
    }
  } catch {
    // Not a file of export.py: loading it tells what is wrong.
  }
  const { peak_threshold: peak = null, presence_calibration: calibration = null } = settings ?? {};
  const isProbability = Number.isFinite(peak) && peak >= 0 && peak <= 1;
  const isPair = Array.isArray(calibration) && calibration.length === 2 && calibration.every(Number.isFinite);
  if ((peak !== null && !isProbability) || (calibration !== null && !isPair)) {
    throw new TypeError("its peak_threshold or presence_calibration is damaged. Export the model again.");
  }
  return { peak, calibration, field: readField(settings?.field_of_view ?? null) };
}

/** The setting of the field of view in one form, as read_field_of_view in field_of_view_unet.py reads it. */
function readField(value) {
  if (value === null || value === "none") return null;
  if (value === "auto") return value;
  const isText = typeof value === "string" && /^\s*\d+\s*(,\s*\d+\s*){3}$/.test(value); // such as "80,0,1360,1024"
  const box = isText ? value.split(",").map(Number) : value;
  if (!isBox(box)) throw new TypeError("its field_of_view is damaged. Export the model again.");
  return box;
}

/** Whether it is left, top, right and bottom of a rectangle that is not empty. */
function isBox(value) {
  if (!Array.isArray(value) || value.length !== 4 || !value.every(Number.isInteger)) return false;
  const [left, top, right, bottom] = value;
  return left >= 0 && top >= 0 && left < right && top < bottom;
}

/** Number and content of each field of a message in protobuf's format; of numbers the content is null. */
function* fieldsOf(message) {
  let at = 0;
  const readNumber = () => {
    for (let value = 0, factor = 1; at < message.length; factor *= 128) {
      const byte = message[at++];
      value += (byte % 128) * factor;
      if (byte < 128) return value;
    }
    throw new RangeError("The message ends within a number.");
  };
  while (at < message.length) {
    const tag = readNumber();
    const kind = tag % 8;
    let length = 0;
    if (kind === 0) readNumber();
    else if (kind === 1) length = 8;
    else if (kind === 2) length = readNumber();
    else if (kind === 5) length = 4;
    else throw new RangeError(`There is no wire type ${kind}.`);
    yield [Math.floor(tag / 8), kind === 2 ? message.subarray(at, at + length) : null];
    at += length;
  }
}
