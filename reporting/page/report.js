// The page of `predict.py --report`. Its data stand in the page: one that is opened from disk may fetch nothing.
"use strict";

const BATCH = 60; // images that are added to the grid when its end comes into view
const STEP = 5; // seconds by which the arrow keys move a time line
const MANY_TRACKS = 50; // of more, the table has the alerts alone until all are asked for: a long film has thousands
const NEAR = "1000px"; // distance from the window in which images and videos begin to load

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;
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

function link(text, url) {
  return element("a", { href: url, target: "_blank", rel: "noopener" }, text);
}

/** A table in a box that scrolls sideways, also by the keyboard. */
function table(caption, columns, rows) {
  const head = element("tr", {}, ...columns.map((column) => element("th", { scope: "col" }, column)));
  const lines = rows.map((row) => element("tr", {}, ...row.map((cell) => element("td", {}, cell))));
  const parts = [element("caption", {}, caption), element("thead", {}, head), element("tbody", {}, ...lines)];
  const box = { className: "box", role: "group", "aria-label": caption, tabIndex: 0 };
  return element("div", box, element("table", {}, ...parts));
}

// The images: a grid that grows as one scrolls, so that thousands open at once. One of them is reached by Tab, the
// others from it by the arrow keys.

const images = data.images.map((image) => ({
  ...image,
  area: image.regions.reduce((sum, region) => sum + region.area, 0),
  doubt: image.presence === null ? 1 : Math.abs(image.presence - 0.5),
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
const kinds = {
  all: () => true,
  yes: (image) => image.regions.length > 0,
  no: (image) => image.regions.length === 0,
  problem: (image) => image.problem !== null,
};
let shown = [];
let placed = 0;
let current = 0; // index of the image that Tab reaches
let viewed = 0;

const presence = (image) =>
  image.presence === null ? "presence not recorded" : `presence ${percent(image.presence)}`;
const marked = (image) =>
  image.regions.length ? `${counted(image.regions.length, "region")}, area ${percent(image.area)}` : "no region";
const describe = (image) => `${presence(image)}; ${marked(image)}`;

function tile(index) {
  const image = shown[index];
  const source = image.thumbnail || image.mask;
  const picture = element("img", { alt: "", loading: "lazy", decoding: "async", src: source });
  const name = element("span", { className: "name" }, image.name);
  const button = element("button", { type: "button", tabIndex: index === current ? 0 : -1 }, picture, name);
  for (const text of [presence(image), marked(image), image.problem]) {
    if (text) button.append(element("span", { className: "says" }, text));
  }
  button.addEventListener("click", () => view(index));
  return element("li", {}, button);
}

function grow(until = placed + BATCH) {
  const tiles = [];
  for (const end = Math.min(until, shown.length); placed < end; placed++) tiles.push(tile(placed));
  byId("grid").append(...tiles);
}

function focusTile(index) {
  const button = (i) => byId("grid").children[i].firstChild;
  if (index >= placed) grow(index + BATCH);
  button(current).tabIndex = -1;
  button(index).tabIndex = 0;
  button(index).focus();
  current = index;
}

function moveInGrid(event) {
  const columns = getComputedStyle(byId("grid")).gridTemplateColumns.split(" ").length;
  const target = {
    ArrowLeft: current - 1,
    ArrowRight: current + 1,
    ArrowUp: current - columns,
    ArrowDown: current + columns,
    Home: 0,
    End: shown.length - 1,
  }[event.key];
  if (target === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  if (target >= 0 && target < shown.length) focusTile(target);
}

function update() {
  const [least, most] = [Number(byId("least").value) / 100, Number(byId("most").value) / 100];
  const [kind, name] = [kinds[byId("marked").value], byId("name").value.toLowerCase()];
  for (const [id, share] of [["least", least], ["most", most]]) {
    byId(`${id}-text`).textContent = percent(share, 0);
    byId(id).setAttribute("aria-valuetext", percent(share, 0));
  }
  const isAny = least === 0 && most === 1;
  const isWithin = (presence) => isAny || (presence !== null && presence >= least && presence <= most);
  shown = images.filter((image) => isWithin(image.presence) && kind(image) && image.lower.includes(name));
  shown.sort(orders[byId("sort").value]);
  byId("shown").textContent = `${shown.length.toLocaleString("en")} of ${counted(images.length, "image")}`;
  byId("grid").replaceChildren();
  placed = current = 0;
  grow();
}

// One image, large: the file itself; its overlay or thumbnail if it is gone, or if the browser cannot show it.

function view(index) {
  viewed = index;
  const image = shown[index];
  byId("viewer-title").textContent = image.name;
  byId("viewer-text").textContent = `${describe(image)}; ${index + 1} of ${shown.length}`;
  byId("previous").setAttribute("aria-disabled", index === 0); // a button that is disabled would lose the focus
  byId("next").setAttribute("aria-disabled", index === shown.length - 1);
  byId("map-choice").hidden = !image.probability;
  byId("no-map").hidden = Boolean(image.probability);
  byId("frame").replaceChildren(...layers(image));
  const file = image.problem ? null : image.large[0];
  const files = [["image", file], ["mask", image.mask], ["probability", image.probability]];
  const links = files.filter(([, url]) => url).flatMap(([text, url]) => [" ", link(text, url)]);
  byId("files").replaceChildren("Files:", ...links);
  const rows = image.regions.map((region, i) => [
    `${i + 1}`, percent(region.probability), percent(region.area, 2), region.box.join(", "),
  ]);
  const columns = ["region", "mean probability", "area", "left, top, right, bottom"];
  byId("regions").replaceChildren(rows.length ? table("Regions, the largest first", columns, rows) : "");
  if (!byId("viewer").open) byId("viewer").showModal();
}

/** The picture, with map and mask drawn over it at its size. */
function layers(image) {
  const sources = [...image.large, ...(image.thumbnail ? [image.thumbnail] : [])];
  const picture = element("img", { alt: `${image.name}: ${describe(image)}` });
  const say = (problem) => {
    byId("viewer-problem").textContent = problem;
    byId("viewer-problem").hidden = !problem;
  };
  picture.addEventListener("error", () => {
    if (!picture.isConnected) return;
    const next = sources.shift();
    const instead = next ? "a picture of it" : "its mask";
    say(image.problem || `This browser cannot find or show the image's file: shown is ${instead}.`);
    if (next) picture.src = next;
    else picture.removeAttribute("src");
  });
  say(image.problem || "");
  if (sources.length) picture.src = sources.shift();
  const over = (name, source) => element("img", { className: name, alt: "", src: source });
  const all = [picture];
  if (image.probability && byId("map").checked) all.push(over("map", image.probability));
  if (byId("outline").checked) all.push(over("mask", image.mask));
  for (const each of all) {
    each.style.aspectRatio = `${image.width} / ${image.height}`;
    each.style.width = `min(100%, ${(65 * image.width) / image.height}vh)`;
  }
  return all;
}

function turn(by) {
  const next = viewed + by;
  if (next >= 0 && next < shown.length) view(next);
}

// The videos: a player, a time line with the tracks below it, and the tracks as a table.

const SVG = "http://www.w3.org/2000/svg";
function shape(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function clock(seconds) {
  const tenths = Math.round(10 * seconds);
  return `${Math.floor(tenths / 600)}:${((tenths % 600) / 10).toFixed(1).padStart(4, "0")}`;
}

const [WIDTH, HEIGHT, LANE] = [1000, 60, 9]; // of a time line; the lanes below it hold the tracks

/** The corners of a line through the parts of a time line: steps, as high as the values, which are shares. */
function steps(values) {
  const step = WIDTH / values.length;
  const y = (value) => HEIGHT * (1 - value);
  return values.map((value, i) => `${i * step},${y(value)} ${(i + 1) * step},${y(value)}`).join(" ");
}

/** A bar for each track, in the first lane that is free then; and the height of all lanes. */
function trackBars(tracks, x) {
  const ends = []; // of the last track in each lane
  const bars = tracks.map((track) => {
    let lane = ends.findIndex((end) => end < track.first);
    if (lane < 0) lane = ends.push(0) - 1;
    ends[lane] = track.last;
    const text = `Track ${track.number}${track.alert ? ", alert" : ""}: ${clock(track.first)} to ${clock(track.last)}`;
    const [start, end] = [x(track.first), x(track.last)];
    const height = track.alert ? LANE - 2 : (LANE - 2) / 2; // not told by colour alone
    const box = { x: start, y: HEIGHT + 4 + lane * LANE, width: Math.max(end - start, 3), height };
    return shape("rect", { class: track.alert ? "track alert" : "track", ...box }, shape("title", {}, text));
  });
  return [bars, ends.length * LANE];
}

function timeline(video, player) {
  const length = Math.max(video.seconds, 1e-6);
  const x = (seconds) => WIDTH * Math.min(seconds / length, 1);
  const highest = Math.max(...video.areas, 1e-9);
  const [bars, lanes] = trackBars(video.tracks || [], x);
  const height = HEIGHT + 4 + lanes;
  const now = shape("line", { class: "now", y1: 0, y2: height });
  const slider = { tabindex: 0, role: "slider", "aria-valuemin": 0, "aria-valuemax": length };
  const area = `0,${HEIGHT} ${steps(video.areas.map((share) => share / highest))} ${WIDTH},${HEIGHT}`;
  const drawing = shape(
    "svg",
    {
      class: "timeline", viewBox: `0 0 ${WIDTH} ${height}`, height, preserveAspectRatio: "none",
      "aria-label": `Time in ${video.name}`, ...slider,
    },
    shape("polygon", { class: "area", points: area }),
    shape("polyline", { class: "presence", points: steps(video.presences) }),
    ...bars,
    now
  );
  const follow = () => {
    now.setAttribute("x1", x(player.currentTime));
    now.setAttribute("x2", x(player.currentTime));
    drawing.setAttribute("aria-valuenow", Math.min(player.currentTime, length));
    drawing.setAttribute("aria-valuetext", clock(player.currentTime));
  };
  const seek = (seconds) => { player.currentTime = Math.min(Math.max(seconds, 0), length); };
  follow();
  for (const event of ["timeupdate", "seeking"]) player.addEventListener(event, follow);
  drawing.addEventListener("click", (event) => {
    const box = drawing.getBoundingClientRect();
    seek((length * (event.clientX - box.left)) / box.width);
  });
  drawing.addEventListener("keydown", (event) => {
    const time = player.currentTime;
    const [back, on] = [time - STEP, time + STEP];
    const targets = { ArrowLeft: back, ArrowDown: back, ArrowRight: on, ArrowUp: on, Home: 0, End: length };
    const target = targets[event.key];
    if (target === undefined) return;
    seek(target);
    event.preventDefault();
  });
  const swatch = (name, text) => element("li", {}, element("span", { className: `swatch ${name}` }), text);
  const legend = element(
    "ul", { className: "legend", role: "list" },
    swatch("presence", "presence, 0 to 100 %"), swatch("area", `marked area, at most ${percent(highest)}`),
    swatch("alert", "alert"), swatch("track", "other track")
  );
  return element("div", {}, drawing, legend);
}

/** The cells of a track's row; buttons show its first and its best frame in the player. */
function trackCells(track, player) {
  const jump = (seconds) => {
    const text = clock(seconds);
    const button = element("button", { type: "button", "aria-label": `${text}, show track ${track.number}` }, text);
    button.addEventListener("click", () => {
      player.currentTime = seconds;
      player.scrollIntoView({ block: "nearest" });
    });
    return button;
  };
  const times = [jump(track.first), clock(track.last), jump(track.best)];
  const numbers = [`${track.frames}`, percent(track.area), percent(track.mean), percent(track.highest)];
  return [`${track.number}`, track.alert ? "yes" : "no", ...times, ...numbers];
}

function tracksTable(video, player) {
  if (video.tracks === null) return "";
  if (!video.tracks.length) return element("p", {}, "No region was marked.");
  const columns = [
    "track", "alert", "from", "to", "best frame", "frames", "largest area", "mean probability", "highest",
  ];
  const list = (caption, tracks) => table(caption, columns, tracks.map((track) => trackCells(track, player)));
  const all = () => list(`Tracks of ${video.name}`, video.tracks);
  if (video.tracks.length <= MANY_TRACKS) return all();
  const more = element("button", { type: "button" }, `Show all ${counted(video.tracks.length, "track")}`);
  const alerts = list(`Alerts of ${video.name}`, video.tracks.filter((track) => track.alert));
  const part = element("div", {}, alerts, more);
  more.addEventListener("click", () => {
    part.replaceChildren(all());
    part.firstChild.focus();
  });
  return part;
}

function videoSection(video) {
  const player = element("video", {
    src: video.overlay, controls: true, preload: "none", muted: true, playsInline: true, "aria-label": video.name,
  });
  const section = element("article", { className: "video" }, element("h3", {}, video.name));
  const left = element("div", {}, player);
  if (video.frames) {
    const alerts = (video.tracks || []).filter((track) => track.alert).length;
    const counts = video.tracks ? `; ${counted(video.tracks.length, "track")}, ${counted(alerts, "alert")}` : "";
    const says = `${counted(video.frames, "frame")}, ${clock(video.seconds)}${counts}.`;
    left.append(timeline(video, player), element("p", { className: "quiet" }, says));
  }
  for (const problem of video.problems) left.append(element("p", { className: "problem" }, problem));
  player.addEventListener("error", () => {
    const file = link("Open the file", video.overlay);
    const words = ["This browser cannot play the video. ", file, " with a player."];
    left.append(element("p", { className: "problem" }, ...words));
  }, { once: true });
  section.append(left, element("div", {}, tracksTable(video, player)));
  loading.observe(player);
  return section;
}

/** Of many videos, those near the window are opened. */
const loading = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((each) => each.isIntersecting)) {
    entry.target.preload = "metadata";
    loading.unobserve(entry.target);
  }
}, { rootMargin: NEAR });

// Start.

byId("summary").textContent = data.summary;
for (const [name, value] of data.settings) byId("settings").append(element("dt", {}, name), element("dd", {}, value));
if (data.tables.length) {
  const links = data.tables.flatMap((name) => [link(name, name), " "]);
  byId("settings").append(element("dt", {}, "tables"), element("dd", {}, ...links));
}
byId("parts").hidden = !(data.videos.length && images.length);
if (data.videos.length) {
  byId("videos").hidden = false;
  byId("videos").append(...data.videos.map(videoSection));
}
if (images.length) {
  byId("images").hidden = false;
  byId("choice").addEventListener("submit", (event) => event.preventDefault());
  byId("choice").addEventListener("input", update);
  byId("grid").addEventListener("keydown", moveInGrid);
  for (const id of ["outline", "map"]) byId(id).addEventListener("input", () => view(viewed));
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  byId("close").addEventListener("click", () => byId("viewer").close());
  byId("viewer").addEventListener("close", () => focusTile(viewed));
  byId("viewer").addEventListener("keydown", (event) => {
    if (event.target.closest(".box")) return; // which the arrow keys scroll
    if (event.key === "ArrowLeft") turn(-1);
    if (event.key === "ArrowRight") turn(1);
  });
  update();
  const observer = new IntersectionObserver((entries) => {
    if (placed === shown.length || !entries.some((entry) => entry.isIntersecting)) return;
    grow();
    observer.unobserve(byId("end")); // it tells of changes alone, and the end may still be near
    observer.observe(byId("end"));
  }, { rootMargin: NEAR });
  observer.observe(byId("end"));
}
