// The page of `predict.py --report`. Its data stand in the page, since a page that is opened from disk may fetch nothing.
"use strict";

const BATCH = 120; // images that are added to the grid when its end comes into view
const STEP = 5; // seconds by which the arrow keys move a time line

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;
const counted = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

/** An element with properties and children; strings become text, so that names need no escaping. */
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function table(caption, columns, rows) {
  const head = element("tr", {}, ...columns.map((column) => element("th", { scope: "col" }, column)));
  const lines = rows.map((row) => element("tr", {}, ...row.map((cell) => element("td", {}, cell))));
  return element(
    "table", {}, element("caption", {}, caption), element("thead", {}, head), element("tbody", {}, ...lines)
  );
}

// The images: a grid that grows as one scrolls, so that thousands open at once.

const images = data.images.map((image) => ({
  ...image,
  area: image.regions.reduce((sum, region) => sum + region.area, 0),
  doubt: Math.abs(image.presence - 0.5),
  lower: image.name.toLowerCase(),
}));
const collator = new Intl.Collator("en", { numeric: true }); // frame 9 comes before frame 10
const byName = new Map([...images].sort((a, b) => collator.compare(a.name, b.name)).map((image, i) => [image, i]));
const orders = {
  presence: (a, b) => b.presence - a.presence || byName.get(a) - byName.get(b),
  doubt: (a, b) => a.doubt - b.doubt || byName.get(a) - byName.get(b),
  area: (a, b) => b.area - a.area || byName.get(a) - byName.get(b),
  name: (a, b) => byName.get(a) - byName.get(b),
};
let shown = [];
let placed = 0;
let viewed = 0;

function describe(image) {
  const regions = image.regions.length ? counted(image.regions.length, "region") : "no region";
  return `${image.presence === null ? "presence unknown" : `presence ${percent(image.presence)}`}, ${regions}`;
}

function tile(index) {
  const image = shown[index];
  const picture = image.thumbnail
    ? element("img", { src: image.thumbnail, alt: "", loading: "lazy", decoding: "async" })
    : element("span", { className: "gone" }, "The image is no longer there.");
  const name = element("span", { className: "name" }, image.name);
  const says = element("span", { className: "says" }, describe(image));
  const button = element("button", { type: "button" }, picture, name, says);
  button.addEventListener("click", () => view(index));
  return element("li", {}, button);
}

function grow() {
  const tiles = [];
  for (const end = Math.min(placed + BATCH, shown.length); placed < end; placed++) tiles.push(tile(placed));
  byId("grid").append(...tiles);
}

function update() {
  const [least, most] = [Number(byId("least").value) / 100, Number(byId("most").value) / 100];
  const [marked, name] = [byId("marked").value, byId("name").value.toLowerCase()];
  byId("least-text").textContent = percent(least);
  byId("most-text").textContent = percent(most);
  shown = images.filter(
    (image) =>
      (image.presence === null || (image.presence >= least && image.presence <= most)) &&
      (marked === "all" || (marked === "yes") === image.regions.length > 0) &&
      image.lower.includes(name)
  );
  shown.sort(orders[byId("sort").value]);
  byId("shown").textContent = `${counted(shown.length, "image")} of ${images.length.toLocaleString("en")}`;
  byId("grid").replaceChildren();
  placed = 0;
  grow();
}

// One image, large: the file itself, or its thumbnail if the browser cannot show it.

function view(index) {
  viewed = index;
  const image = shown[index];
  byId("viewer-title").textContent = image.name;
  byId("viewer-text").textContent = `${describe(image)}; ${index + 1} of ${shown.length}`;
  byId("previous").disabled = index === 0;
  byId("next").disabled = index === shown.length - 1;
  byId("map-choice").hidden = !image.probability;
  const picture = element("img", { alt: `${image.name}: ${describe(image)}` });
  picture.addEventListener("error", () => { picture.src = image.thumbnail || ""; }, { once: true });
  picture.src = image.path || image.thumbnail || "";
  // Mask and map are drawn at the picture's size, which is theirs.
  const layer = (name, source) => element("img", { className: name, alt: "", src: source });
  const layers = [picture];
  if (image.probability && byId("map").checked) layers.push(layer("map", image.probability));
  if (byId("outline").checked) layers.push(layer("mask", image.mask));
  for (const each of layers) each.setAttribute("style", `aspect-ratio: ${image.width} / ${image.height}; width: ${image.width}px`);
  byId("frame").replaceChildren(...layers);
  const rows = image.regions.map((region, i) => [
    `${i + 1}`, percent(region.probability, 1), percent(region.area, 2), region.box.join(", "),
  ]);
  const columns = ["region", "mean probability", "area", "left, top, right, bottom"];
  byId("regions").replaceChildren(rows.length ? table("Regions, the largest first", columns, rows) : "");
  if (!byId("viewer").open) byId("viewer").showModal();
}

function turn(by) {
  const next = viewed + by;
  if (next >= 0 && next < shown.length) view(next);
}

// The videos: a player, a time line of the marked area with the tracks below it, and the tracks as a table.

const SVG = "http://www.w3.org/2000/svg";
function shape(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const clock = (seconds) => `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;

function timeline(video, player) {
  const [width, height, lane] = [1000, 60, 8];
  const length = Math.max(video.seconds, 1e-6);
  const x = (seconds) => (width * seconds) / length;
  const highest = Math.max(...video.areas, 1e-9);
  const step = width / video.areas.length;
  const points = video.areas.map((area, i) => `${i * step},${height * (1 - area / highest)} ${(i + 1) * step},${height * (1 - area / highest)}`);
  const lanes = [];
  const bars = video.tracks.map((track) => {
    let row = lanes.findIndex((end) => end < track.first);
    if (row < 0) row = lanes.push(0) - 1;
    lanes[row] = track.last;
    const title = shape("title", {}, `Track ${track.number}, from ${clock(track.first)} to ${clock(track.last)}`);
    const size = { x: x(track.first), y: height + 4 + row * lane, width: Math.max(x(track.last) - x(track.first), 2), height: lane - 2 };
    return shape("rect", { class: track.alert ? "track alert" : "track", ...size }, title);
  });
  const total = height + 4 + lanes.length * lane;
  const now = shape("line", { class: "now", x1: 0, x2: 0, y1: 0, y2: total });
  const drawing = shape(
    "svg",
    {
      class: "timeline", viewBox: `0 0 ${width} ${total}`, preserveAspectRatio: "none", tabindex: 0, role: "slider",
      "aria-label": "Time in the video", "aria-valuemin": 0, "aria-valuemax": Math.round(length),
    },
    shape("polygon", { class: "area", points: `0,${height} ${points.join(" ")} ${width},${height}` }),
    ...bars,
    now
  );
  const follow = () => {
    now.setAttribute("x1", x(player.currentTime));
    now.setAttribute("x2", x(player.currentTime));
    drawing.setAttribute("aria-valuenow", Math.round(player.currentTime));
    drawing.setAttribute("aria-valuetext", clock(player.currentTime));
  };
  follow();
  player.addEventListener("timeupdate", follow);
  drawing.addEventListener("click", (event) => {
    const box = drawing.getBoundingClientRect();
    player.currentTime = (length * (event.clientX - box.left)) / box.width;
  });
  drawing.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -STEP, ArrowRight: STEP }[event.key];
    if (by === undefined) return;
    player.currentTime = Math.min(Math.max(player.currentTime + by, 0), length);
    event.preventDefault();
  });
  return drawing;
}

function videoSection(video) {
  const player = element("video", { src: video.overlay, controls: true, preload: "metadata", "aria-label": video.name });
  const rows = video.tracks.map((track) => {
    const seek = element("button", { type: "button" }, clock(track.first));
    seek.addEventListener("click", () => { player.currentTime = track.first; });
    const numbers = [`${track.frames}`, percent(track.area, 1), percent(track.mean), percent(track.highest)];
    return [`${track.number}`, track.alert ? "yes" : "no", seek, clock(track.last), ...numbers];
  });
  const columns = ["track", "alert", "from", "to", "frames", "largest area", "mean probability", "highest"];
  const alerts = video.tracks.filter((track) => track.alert).length;
  const says = `${counted(video.frames, "frame")}, ${clock(video.seconds)}; ${counted(video.tracks.length, "track")}, ${counted(alerts, "alert")}.`;
  const section = element("article", { className: "video" }, element("h3", {}, video.name));
  const left = element("div", {}, player, timeline(video, player), element("p", { className: "quiet" }, says));
  if (video.problem) left.append(element("p", { className: "problem" }, video.problem));
  section.append(left, element("div", {}, rows.length ? table("Tracks", columns, rows) : "No lesion was marked."));
  return section;
}

// Start.

byId("summary").textContent = data.summary;
for (const [name, value] of data.settings) byId("settings").append(element("dt", {}, name), element("dd", {}, value));
if (data.videos.length) {
  byId("videos").hidden = false;
  byId("videos").append(...data.videos.map(videoSection));
}
if (images.length) {
  byId("images").hidden = false;
  for (const id of ["sort", "marked", "least", "most", "name"]) byId(id).addEventListener("input", update);
  for (const id of ["outline", "map"]) byId(id).addEventListener("input", () => view(viewed));
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  byId("close").addEventListener("click", () => byId("viewer").close());
  byId("viewer").addEventListener("close", () => byId("grid").children[viewed]?.firstChild.focus());
  byId("viewer").addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") turn(-1);
    if (event.key === "ArrowRight") turn(1);
  });
  update();
  const end = document.body.appendChild(element("div"));
  const observer = new IntersectionObserver((entries) => {
    if (placed === shown.length || !entries.some((entry) => entry.isIntersecting)) return;
    grow();
    observer.unobserve(end); // it tells of changes alone, and the end may still be near
    observer.observe(end);
  }, { rootMargin: "1000px" });
  observer.observe(end);
}
