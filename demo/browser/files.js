// The files that can be saved, as predict.py writes them: the mask as a PNG file, the lesion table as a CSV file.

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]; // of PNG
const COLUMNS =
  "image,lesion,left,top,right,bottom,centroid_x,centroid_y,area_pixels,area_percent,mean_probability";
// How a cell begins that a spreadsheet takes for a formula, and the separators of other spreadsheets: as in
// common/csv_tables.py.
const FORMULA = /^(?:[\s\x00-\x1f]*[=+\-@＝＋－＠]|[\t\r\n])/;
const OTHER_SEPARATORS = /[;\t|]/;

/**
 * The PNG file of a mask: grey, of 8 bits, 255 for polyp and 0 for background. Canvases save red, green, blue, alpha.
 *
 * @param {Uint8Array} mask Of height times width pixels, row by row: 1 for polyp.
 * @returns {Promise<Blob>}
 */
export async function maskFile(mask, width, height) {
  const rows = new Uint8Array((width + 1) * height); // each begins with the number of its filter: 0 for none
  for (let row = 0; row < height; row++) {
    const levels = mask.subarray(row * width, (row + 1) * width).map((value) => 255 * value);
    rows.set(levels, row * (width + 1) + 1);
  }
  const header = new Uint8Array(13); // width, height, bits, kind of colours, and the usual ones of three methods
  new DataView(header.buffer).setUint32(0, width);
  new DataView(header.buffer).setUint32(4, height);
  header[8] = 8;
  const compressed = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  const pixels = new Uint8Array(await new Response(compressed).arrayBuffer());
  const chunks = [chunk("IHDR", header), chunk("IDAT", pixels), chunk("IEND", new Uint8Array(0))];
  return new Blob([Uint8Array.from(SIGNATURE), ...chunks], { type: "image/png" });
}

/** A part of a PNG file: length, name, content, and a checksum of the two. */
function chunk(name, content) {
  const bytes = new Uint8Array(12 + content.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, content.length);
  bytes.set(new TextEncoder().encode(name), 4);
  bytes.set(content, 8);
  view.setUint32(8 + content.length, checksum(bytes.subarray(4, 8 + content.length)));
  return bytes;
}

/** CRC-32, as PNG and zip take it. */
function checksum(bytes) {
  let rest = 0xffffffff;
  for (const byte of bytes) {
    rest ^= byte;
    for (let bit = 0; bit < 8; bit++) rest = rest & 1 ? (rest >>> 1) ^ 0xedb88320 : rest >>> 1;
  }
  return ~rest >>> 0;
}

/**
 * The CSV file of an image's regions.
 *
 * @param {string} name Of the image.
 * @param regions As `findRegions` gives them.
 * @returns {Blob}
 */
export function tableFile(name, regions) {
  const lines = regions.map(({ box, centroid, pixels, share, probability }, index) => {
    const numbers = [...box, ...centroid.map((place) => place.toFixed(2)), pixels];
    return line([safe(name), index + 1, ...numbers, (100 * share).toFixed(4), probability.toFixed(6)]);
  });
  return new Blob([`${COLUMNS}\r\n`, ...lines], { type: "text/csv" });
}

/** A name as a spreadsheet takes for a text: with "./" before what would be a formula, which is the same path. */
function safe(name) {
  const isNumber = name.trim() !== "" && !Number.isNaN(Number(name));
  return FORMULA.test(name) && !isNumber ? `./${name}` : name;
}

function line(cells) {
  const areQuoted = cells.some((cell) => OTHER_SEPARATORS.test(cell));
  const quoted = cells.map((cell) =>
    areQuoted || /[",\r\n]/.test(cell) ? `"${String(cell).replaceAll('"', '""')}"` : cell,
  );
  return `${quoted.join(",")}\r\n`;
}
