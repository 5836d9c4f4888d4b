"use strict";

// The data of the page, the list, the chosen track and its sound.
const COLOURS = [
  "#4e79a7",
  "#f28e2b",
  "#59a14f",
  "#e15759",
  "#b07aa1",
  "#3aa6a0",
  "#d4a017",
  "#9c755f",
  "#e377c2",
  "#8b9299",
];
const MAX_LISTED = 200;

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const tracks = data.tracks;

function unpack(text, type) {
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = letters.charCodeAt(i);
  return new type(bytes.buffer);
}

const points = Float32Array.from(
  unpack(data.points, Uint16Array),
  (value) => value / 65535,
);
const neighbours = unpack(data.neighbours, Uint32Array);
const similarities = unpack(data.similarities, Int8Array);
const vectors = unpack(data.vectors, Int8Array);

// Where the vectors of each track start, and what it is called and found by.
const stem = (track) => track.path.replace(/\.[^.]*$/s, "");
const stems = new Map();
for (const track of tracks) {
  stems.set(stem(track), (stems.get(stem(track)) || 0) + 1);
}
let rows = 0;
for (const track of tracks) {
  track.start = rows * data.dim;
  rows += track.n;
  // The suffix only where it tells tracks apart.
  const name = stems.get(stem(track)) > 1 ? track.path : stem(track);
  track.name = name.replace(/^.*\//s, "");
  track.key = folded(track.path);
}

function folded(text) {
  return text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  const minutes = Math.floor(whole / 60) % 60;
  const rest = String(whole % 60).padStart(2, "0");
  if (whole < 3600) return `${minutes}:${rest}`;
  const hours = Math.floor(whole / 3600);
  return `${hours}:${String(minutes).padStart(2, "0")}:${rest}`;
}

function part(tag, name, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
}

// A track as a button of a list.
function entry(i, ...after) {
  const item = part("li");
  const button = part("button");
  const dot = part("span", "dot");
  dot.style.background = COLOURS[tracks[i].group];
  button.type = "button";
  button.title = tracks[i].path;
  button.append(dot, part("span", "text", tracks[i].name), ...after);
  button.addEventListener("click", () => choose(i, true));
  item.append(button);
  item.dataset.track = i;
  return item;
}

const audio = byId("audio");
const matrix = new SimilarityMatrix(byId("matrix"));
// hidden: tracks of other folders, or without what is searched for.
const state = { selected: -1, group: -1, wanted: "", hidden: [] };

function near(i) {
  return Array.from(neighbours.subarray(i * data.k, (i + 1) * data.k));
}

const map = new MusicMap(byId("map"), points, {
  colour: (i) => COLOURS[tracks[i].group],
  dimmed: (i) => state.hidden[i],
  name: (i) => tracks[i].name,
  links: near,
});
map.choose = choose;
map.hover = (i, at) => {
  const tip = byId("tip");
  tip.hidden = i < 0;
  if (i < 0) return;
  tip.textContent = tracks[i].path;
  tip.style.top = `${at[1] + 14}px`;
  const right = at[0] > byId("map").clientWidth / 2;
  tip.style.left = right ? "" : `${at[0]}px`;
  tip.style.right = right ? `${byId("map").clientWidth - at[0]}px` : "";
};

function list() {
  state.hidden = tracks.map(
    (track) =>
      (state.group >= 0 && track.group !== state.group) ||
      !track.key.includes(state.wanted),
  );
  const found = tracks.map((_, i) => i).filter((i) => !state.hidden[i]);
  byId("list").replaceChildren(
    ...found.slice(0, MAX_LISTED).map((i) => entry(i)),
  );
  const more = found.length > MAX_LISTED ? `, ${MAX_LISTED} listed` : "";
  byId("found").textContent = `${found.length} of ${tracks.length}${more}`;
  mark();
  map.draw();
}

// Shows which track of the list is chosen; scrolls the list, not the page.
function mark() {
  const box = byId("list");
  for (const item of box.children) {
    const current = Number(item.dataset.track) === state.selected;
    item.firstChild.setAttribute("aria-current", current);
    if (!current) continue;
    const above = item.offsetTop - box.offsetTop;
    const below = above + item.offsetHeight - box.clientHeight;
    box.scrollTop = Math.min(above, Math.max(below, box.scrollTop));
  }
}

function choose(i, play) {
  const track = tracks[i];
  if (i !== state.selected) {
    state.selected = i;
    map.selected = i;
    audio.src = track.url || "";
    if (!track.url) audio.removeAttribute("src");
    byId("problem").textContent = track.url ? "" : "It has no preview.";
    byId("name").textContent = track.name;
    const covered = track.preview
      ? `, preview ${clock(track.preview[0])} to ` +
        clock(track.preview[0] + track.preview[1])
      : "";
    byId("where").textContent =
      `${track.path} · ${clock(track.duration_s)}${covered}`;
    const end = track.start + track.n * data.dim;
    matrix.show(track, vectors.subarray(track.start, end), data.dim);
    matrix.read();
    byId("neighbours").replaceChildren(
      ...near(i).map((other, place) => {
        const value = similarities[i * data.k + place] / 127;
        const bar = part("span", "bar");
        bar.append(part("span"));
        bar.firstChild.style.width = `${100 * Math.max(0, value)}%`;
        return entry(other, bar, part("span", "value", value.toFixed(2)));
      }),
    );
    mark();
    map.draw();
  } else if (play && !audio.paused) {
    audio.pause();
    return;
  }
  if (play) start();
}

function start() {
  if (!audio.hasAttribute("src")) return;
  // A track that is chosen before this one has loaded interrupts it.
  audio.play().catch(() => {});
}

// A preview is a piece of its track: times of the page are those of the track.
function offset() {
  const track = tracks[state.selected];
  return track.preview ? track.preview[0] : 0;
}

matrix.seek = (seconds) => {
  const { preview } = tracks[state.selected];
  let at = seconds - offset();
  if (preview && (at < 0 || at >= preview[1])) {
    byId("problem").textContent =
      `The preview does not reach ${clock(seconds)}.`;
    return;
  }
  byId("problem").textContent = "";
  audio.currentTime = at;
  start();
};

matrix.read = () => {
  const { cursor } = matrix;
  if (!cursor) {
    byId("reading").textContent = matrix.track
      ? `0:00 to ${clock(matrix.seconds)} both ways, dark is ` +
        `${matrix.low.toFixed(2)}, bright ${matrix.high.toFixed(2)}. ` +
        "Click to play from there."
      : "";
    return;
  }
  const [from, to] = cursor.map((cell) => clock(matrix.time(cell)));
  const value = matrix.value(...cursor).toFixed(2);
  byId("reading").textContent =
    cursor[0] === cursor[1]
      ? from
      : `${from} and ${to}: similarity ${value}`;
};

function follow() {
  if (state.selected >= 0) matrix.play(audio.currentTime + offset());
  if (!audio.paused) requestAnimationFrame(follow);
}
audio.addEventListener("play", follow);
audio.addEventListener("seeked", follow);
audio.addEventListener("error", () => {
  if (!audio.hasAttribute("src")) return;
  byId("problem").textContent =
    "Your browser cannot play this file, or it is not where it was.";
});

byId("search").addEventListener("input", (event) => {
  state.wanted = folded(event.target.value.trim());
  list();
});

if (data.groups.length > 1) {
  data.groups.forEach((name, group) => {
    const button = part("button");
    const dot = part("span", "dot");
    dot.style.background = COLOURS[group];
    button.type = "button";
    button.append(dot, part("span", "", name));
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => {
      state.group = state.group === group ? -1 : group;
      for (const other of byId("legend").children) {
        const pressed = other === button && state.group === group;
        other.setAttribute("aria-pressed", pressed);
      }
      list();
    });
    byId("legend").append(button);
  });
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  map.draw();
  matrix.draw();
});
list();
