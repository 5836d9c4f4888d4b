"use strict";

// Similarity of each moment of a track with each other moment of it.
class SimilarityMatrix {
  constructor(canvas) {
    this.canvas = canvas;
    this.image = document.createElement("canvas");
    this.track = null;
    this.cursor = null; // [column, row] under the mouse or of the keys
    this.playing = null; // seconds
    this.seek = () => {};
    this.read = () => {};
    this.listen();
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  // vectors: Int8Array of n x dim, 127 for 1.
  show(track, vectors, dim) {
    const n = track.n;
    this.track = track;
    this.cursor = null;
    this.playing = null;
    this.values = new Float32Array(n * n);
    for (let i = 0; i < n; i++) {
      this.values[i * n + i] = 1;
      for (let j = 0; j < i; j++) {
        let sum = 0;
        for (let d = 0; d < dim; d++) {
          sum += vectors[i * dim + d] * vectors[j * dim + d];
        }
        const value = Math.max(-1, Math.min(1, sum / 16129));
        this.values[i * n + j] = this.values[j * n + i] = value;
      }
    }
    this.paint(n);
    this.draw();
  }

  // Colours go from the 2nd to the 98th percentile off the diagonal: tracks
  // differ in how much they vary.
  paint(n) {
    const sorted = this.values
      .filter((_, i) => Math.floor(i / n) !== i % n)
      .sort();
    const at = (share) => sorted[Math.floor(share * (sorted.length - 1))];
    this.low = sorted.length ? at(0.02) : -1;
    this.high = sorted.length ? at(0.98) : 1;
    const span = Math.max(1e-3, this.high - this.low);
    this.image.width = this.image.height = n;
    const context = this.image.getContext("2d");
    const pixels = context.createImageData(n, n);
    this.values.forEach((value, i) => {
      const share = Math.min(1, Math.max(0, (value - this.low) / span));
      pixels.data.set([...shade(share), 255], 4 * i);
    });
    context.putImageData(pixels, 0, 0);
  }

  get seconds() {
    return Math.min(this.track.duration_s, this.track.n * this.track.cell_s);
  }

  time(cell) {
    return cell * this.track.cell_s;
  }

  value(column, row) {
    return this.values[row * this.track.n + column];
  }

  listen() {
    const canvas = this.canvas;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      const cells = [
        (event.clientX - box.left) / box.width,
        (event.clientY - box.top) / box.height,
      ].map((share) => {
        const cell = Math.floor(share * this.track.n);
        return Math.max(0, Math.min(this.track.n - 1, cell));
      });
      return cells;
    };
    canvas.addEventListener("mousemove", (event) => {
      if (this.track) this.point(at(event));
    });
    canvas.addEventListener("mouseleave", () => this.point(null));
    canvas.addEventListener("click", (event) => {
      if (this.track) this.seek(this.time(at(event)[0]));
    });
    canvas.addEventListener("keydown", (event) => {
      if (!this.track) return;
      const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -1e9, End: 1e9 };
      const now = Math.floor((this.playing || 0) / this.track.cell_s);
      const column = this.cursor ? this.cursor[0] : now;
      if (steps[event.key]) {
        const last = this.track.n - 1;
        const next = Math.max(0, Math.min(last, column + steps[event.key]));
        this.point([next, next]);
      } else if (event.key === "Enter" || event.key === " ") {
        this.seek(this.time(column));
      } else {
        return;
      }
      event.preventDefault();
    });
  }

  point(cursor) {
    this.cursor = cursor;
    this.read();
    this.draw();
  }

  play(seconds) {
    this.playing = seconds;
    this.draw();
  }

  draw() {
    const context = fitted(this.canvas);
    const { clientWidth: width, clientHeight: height } = this.canvas;
    context.clearRect(0, 0, width, height);
    if (!this.track) return;
    context.imageSmoothingEnabled = false;
    context.drawImage(this.image, 0, 0, width, height);
    const cell = width / this.track.n;
    const line = (at, colour) => {
      context.strokeStyle = colour;
      context.lineWidth = 1.5;
      context.beginPath();
      context.moveTo(at, 0);
      context.lineTo(at, height);
      context.moveTo(0, at);
      context.lineTo(width, at);
      context.stroke();
    };
    if (this.playing !== null) {
      line((this.playing / this.track.cell_s) * cell, "#ff5a4f");
    }
    if (this.cursor) {
      const [column, row] = this.cursor;
      context.strokeStyle = "#ffffff";
      context.lineWidth = 1;
      context.beginPath();
      context.moveTo((column + 0.5) * cell, 0);
      context.lineTo((column + 0.5) * cell, height);
      context.moveTo(0, (row + 0.5) * cell);
      context.lineTo(width, (row + 0.5) * cell);
      context.stroke();
    }
  }
}

// From dark violet over blue-green to yellow: even steps to the eye, also to
// those that do not tell red from green.
const STOPS = [
  [40, 12, 66],
  [52, 71, 130],
  [34, 125, 138],
  [69, 178, 116],
  [250, 228, 60],
];

function shade(share) {
  const at = share * (STOPS.length - 1);
  const below = Math.min(STOPS.length - 2, Math.floor(at));
  return STOPS[below].map((value, channel) =>
    Math.round(value + (at - below) * (STOPS[below + 1][channel] - value)),
  );
}
