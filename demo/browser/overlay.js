// Draws a mask onto an image as inference/overlay.py does: a tint inside, a contour with a dark halo, and the numbers
// of its regions.

const COLOUR = [0, 229, 255];
const HALO = [10, 20, 40];
const OPACITY = 0.35;
const CONTOURS_PER_SIDE = 130; // contours that would fill an image's shorter side
const [LETTERS, MIN_LETTERS] = [6, 11]; // height of numbers: so many contours, and pixels at least
const DIGIT_WIDTH = 0.62; // of a number's height
export const NUMBERED = 12; // regions of an image that get a number

/**
 * Draw a mask, in place.
 *
 * @param {ImageData} image
 * @param {Uint8Array} mask Of the image's size, row by row: 1 for polyp, 0 for background.
 */
export function drawOverlay(image, mask) {
  const width = contourWidth(image.width, image.height);
  const area = cutOut(mask, image.width, image.height, width);
  if (!area) return;
  const outside = area.inside.map((value) => 1 - value);
  const nearOutside = grown(outside, area.width, width);
  const nearInside = grown(area.inside, area.width, haloWidth(width));
  for (let y = 0; y < area.height; y++) {
    const row = area.top + y;
    if (row < 0 || row >= image.height) continue;
    for (let x = 0; x < area.width; x++) {
      const column = area.left + x;
      if (column < 0 || column >= image.width) continue;
      const index = y * area.width + x;
      const pixel = 4 * (row * image.width + column);
      if (area.inside[index]) {
        const opacity = nearOutside[index] ? 1 : OPACITY;
        for (let channel = 0; channel < 3; channel++) {
          const level = image.data[pixel + channel];
          image.data[pixel + channel] = Math.round(level + opacity * (COLOUR[channel] - level));
        }
      } else if (nearInside[index]) {
        image.data.set(HALO, pixel);
      }
    }
  }
}

/**
 * Write the number of each region beside it, at the places of `numberPlaces`.
 *
 * @param {CanvasRenderingContext2D} context Of the image.
 * @param {number[][]} boxes Of the regions, in the order of their table: the first gets the 1.
 */
export function drawNumbers(context, boxes) {
  const { width, height } = context.canvas;
  context.font = `${letterHeight(width, height)}px system-ui, sans-serif`;
  [context.textAlign, context.textBaseline] = ["center", "middle"];
  numberPlaces(width, height, boxes).forEach((place, index) => {
    if (!place) return;
    const [left, top, right, bottom] = place;
    context.fillStyle = `rgb(${HALO})`;
    context.fillRect(left, top, right - left, bottom - top);
    context.fillStyle = `rgb(${COLOUR})`;
    context.fillText(index + 1, (left + right) / 2, (top + bottom) / 2, right - left);
  });
}

/** Where the numbers of the first regions are written, as `number_places` of inference/overlay.py chooses. */
export function numberPlaces(width, height, boxes) {
  const numbered = boxes.slice(0, NUMBERED);
  const written = [];
  return numbered.map((box, index) => {
    const others = numbered.filter((_, other) => other !== index);
    const possible = possiblePlaces(width, height, box, String(index + 1).length);
    const free = possible.filter((place) => !written.some((other) => overlap(place, other)));
    const chosen = free.find((place) => !others.some((other) => overlap(place, other))) ?? free[0] ?? null;
    if (chosen) written.push(chosen);
    return chosen;
  });
}

/** The rectangles within the image that a number of so many digits may take, the best first. */
function possiblePlaces(imageWidth, imageHeight, [left, top, right, bottom], digits) {
  const [contour, letters] = [contourWidth(imageWidth, imageHeight), letterHeight(imageWidth, imageHeight)];
  const width = Math.ceil(DIGIT_WIDTH * letters * digits) + 2 * contour;
  const height = letters + 2 * contour;
  const gap = haloWidth(contour);
  const [inColumns, inRows] = [imageWidth - width, imageHeight - height];
  const [over, under] = [top - gap - height, bottom + gap];
  const within = (place, last) => Math.min(Math.max(place, 0), last);
  const row = within(Math.floor((top + bottom - height) / 2), inRows);
  const [middle, ...ends] = [Math.floor((left + right - width) / 2), left, right - width].map((column) =>
    within(column, inColumns),
  );
  const corners = [
    ...[[middle, over], [middle, under], [right + gap, row], [left - gap - width, row]],
    ...[over, under].flatMap((y) => ends.map((x) => [x, y])),
    [left + 2 * contour, top + 2 * contour],
  ];
  return corners
    .filter(([x, y]) => x >= 0 && x <= inColumns && y >= 0 && y <= inRows)
    .map(([x, y]) => [x, y, x + width, y + height]);
}

function overlap(box, other) {
  return box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3];
}

/** Width in pixels of the contours in an image of this size: rounded, halves to even numbers as in Python. */
function contourWidth(width, height) {
  return Math.max(1, roundedToEven(Math.min(width, height) / CONTOURS_PER_SIDE));
}

function roundedToEven(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

function haloWidth(contour) {
  return Math.max(1, contour >> 1);
}

function letterHeight(width, height) {
  return Math.max(MIN_LETTERS, LETTERS * contourWidth(width, height));
}

/** The bounding box of a mask with a margin, which may extend beyond the image; null if the mask is empty. */
function cutOut(mask, width, height, margin) {
  let [left, right, top, bottom] = [width, -1, height, -1];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!mask[y * width + x]) continue;
      left = Math.min(left, x);
      right = Math.max(right, x);
      top = Math.min(top, y);
      bottom = y;
    }
  }
  if (right < 0) return null;
  const area = { left: left - margin, top: top - margin };
  area.width = right - left + 1 + 2 * margin;
  area.height = bottom - top + 1 + 2 * margin;
  area.inside = new Uint8Array(area.width * area.height);
  for (let y = top; y <= bottom; y++) {
    const row = mask.subarray(y * width + left, y * width + right + 1);
    area.inside.set(row, (y - area.top) * area.width + margin);
  }
  return area;
}

/** The mask dilated by `steps` pixels: with a diamond and a square in turn, which together make an octagon. */
function grown(mask, width, steps) {
  for (let step = 0; step < steps; step++) {
    const next = mask.slice();
    for (let index = width; index < mask.length; index++) {
      next[index] |= mask[index - width];
      next[index - width] |= mask[index];
    }
    const source = step % 2 ? next.slice() : mask;
    for (let row = 0; row < mask.length; row += width) {
      for (let index = row + 1; index < row + width; index++) {
        next[index] |= source[index - 1];
        next[index - 1] |= source[index];
      }
    }
    mask = next;
  }
  return mask;
}
