"use strict";

// The tracks as points: hover names, click chooses, wheel and drag move.
class MusicMap {
  constructor(canvas, points, look) {
    this.canvas = canvas;
    this.points = points; // Float32Array of x, y in 0 ... 1
    this.look = look; // colour(i), dimmed(i), name(i), links(i)
    this.selected = -1;
    this.hovered = -1;
    this.choose = () => {};
    this.hover = () => {};
    this.size = [0, 0]; // of the canvas; asking it for each point is slow
    this.reset();
    this.listen();
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  reset() {
    this.zoom = 1;
    this.centre = [0.5, 0.5];
  }

  get count() {
    return this.points.length / 2;
  }

  // Pixels of a point; the map keeps a margin for labels.
  place(i) {
    const [width, height] = this.size;
    const margin = 28;
    const x = (this.points[2 * i] - this.centre[0]) * this.zoom + 0.5;
    const y = (this.points[2 * i + 1] - this.centre[1]) * this.zoom + 0.5;
    return [
      margin + x * (width - 2 * margin),
      margin + y * (height - 2 * margin),
    ];
  }

  nearest(x, y, reach) {
    let best = -1;
    let least = reach * reach;
    for (let i = 0; i < this.count; i++) {
      const [px, py] = this.place(i);
      const distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < least && !this.look.dimmed(i)) {
        best = i;
        least = distance;
      }
    }
    return best;
  }

  // The nearest track within 45 degrees of a direction.
  neighbour(from, dx, dy) {
    let best = -1;
    let least = Infinity;
    const [x, y] = this.place(from);
    for (let i = 0; i < this.count; i++) {
      if (i === from || this.look.dimmed(i)) continue;
      const [px, py] = this.place(i);
      const along = (px - x) * dx + (py - y) * dy;
      const across = Math.abs((px - x) * dy - (py - y) * dx);
      const distance = Math.hypot(along, across);
      if (along > 0 && along >= across && distance < least) {
        best = i;
        least = distance;
      }
    }
    return best;
  }

  zoomBy(factor, x, y) {
    const [width, height] = this.size;
    const zoom = Math.min(64, Math.max(1, this.zoom * factor));
    const shift = 1 / this.zoom - 1 / zoom;
    this.centre[0] += (x / width - 0.5) * shift;
    this.centre[1] += (y / height - 0.5) * shift;
    this.zoom = zoom;
    if (zoom === 1) this.reset();
    this.draw();
  }

  listen() {
    const canvas = this.canvas;
    let drag = null;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    canvas.addEventListener("pointerdown", (event) => {
      drag = { at: at(event), centre: [...this.centre], moved: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      const [x, y] = at(event);
      if (drag) {
        const dx = x - drag.at[0];
        const dy = y - drag.at[1];
        drag.moved ||= Math.hypot(dx, dy) > 4;
        if (drag.moved && this.zoom > 1) {
          this.centre[0] = drag.centre[0] - dx / canvas.clientWidth / this.zoom;
          this.centre[1] = drag.centre[1] - dy / canvas.clientHeight / this.zoom;
          this.draw();
        }
        return;
      }
      const found = this.nearest(x, y, 14);
      if (found !== this.hovered) {
        this.hovered = found;
        this.hover(found, found < 0 ? null : this.place(found));
        this.draw();
      }
    });
    canvas.addEventListener("pointerup", (event) => {
      const clicked = drag && !drag.moved;
      drag = null;
      const found = clicked ? this.nearest(...at(event), 18) : -1;
      if (found >= 0) this.choose(found, true);
    });
    canvas.addEventListener("pointerleave", () => {
      this.hovered = -1;
      this.hover(-1, null);
      this.draw();
    });
    canvas.addEventListener("dblclick", () => {
      this.reset();
      this.draw();
    });
    canvas.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        this.zoomBy(Math.exp(-event.deltaY / 400), ...at(event));
      },
      { passive: false },
    );
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const arrows = {
      ArrowLeft: [-1, 0],
      ArrowRight: [1, 0],
      ArrowUp: [0, -1],
      ArrowDown: [0, 1],
    };
    const [width, height] = this.size;
    const centre = this.selected < 0 ? null : this.place(this.selected);
    const [x, y] = centre || [width / 2, height / 2];
    if (arrows[event.key]) {
      const first = this.nearest(width / 2, height / 2, Infinity);
      const next = centre
        ? this.neighbour(this.selected, ...arrows[event.key])
        : first;
      if (next >= 0) this.choose(next, false);
    } else if (event.key === "Enter" || event.key === " ") {
      if (centre) this.choose(this.selected, true);
    } else if (event.key === "+" || event.key === "=") {
      this.zoomBy(1.5, x, y);
    } else if (event.key === "-") {
      this.zoomBy(1 / 1.5, x, y);
    } else if (event.key === "0") {
      this.reset();
      this.draw();
    } else {
      return;
    }
    event.preventDefault();
  }

  draw() {
    const context = fitted(this.canvas);
    this.size = [this.canvas.clientWidth, this.canvas.clientHeight];
    const [width, height] = this.size;
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--ink");
    const ground = style.getPropertyValue("--panel");
    context.clearRect(0, 0, width, height);
    const radius = Math.max(2.5, Math.min(6, 60 / Math.sqrt(this.count)));
    if (this.selected >= 0) {
      context.strokeStyle = style.getPropertyValue("--muted");
      context.globalAlpha = 0.5;
      context.lineWidth = 1;
      for (const other of this.look.links(this.selected)) {
        context.beginPath();
        context.moveTo(...this.place(this.selected));
        context.lineTo(...this.place(other));
        context.stroke();
      }
    }
    for (let i = 0; i < this.count; i++) {
      const [x, y] = this.place(i);
      context.globalAlpha = this.look.dimmed(i) ? 0.12 : 0.85;
      context.fillStyle = this.look.colour(i);
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.fill();
    }
    context.globalAlpha = 1;
    for (const i of [this.hovered, this.selected]) {
      if (i < 0) continue;
      context.strokeStyle = ink;
      context.lineWidth = 2;
      context.beginPath();
      context.arc(...this.place(i), radius + 3, 0, 2 * Math.PI);
      context.stroke();
    }
    this.label(context, radius, ink, ground, width, height);
  }

  // Names where they do not overlap; the chosen track comes first.
  label(context, radius, ink, ground, width, height) {
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "middle";
    context.lineJoin = "round";
    const taken = [];
    const seen = [];
    for (let i = 0; i < this.count; i++) {
      const [x, y] = this.place(i);
      const inside = x > 0 && y > 0 && x < width && y < height;
      if (inside && !this.look.dimmed(i)) seen.push(i);
    }
    if (seen.length > 150) seen.length = 0;
    if (this.selected >= 0) seen.unshift(this.selected);
    for (const i of new Set(seen)) {
      const [x, y] = this.place(i);
      let text = this.look.name(i);
      if (text.length > 28) text = `${text.slice(0, 27)}…`;
      const length = context.measureText(text).width;
      const right = x + radius + 5;
      const sides = [right, x - radius - 5 - length];
      const box = sides
        .map((left) => [left - 2, y - 8, left + length + 2, y + 8])
        .find((one) => one[0] >= 0 && one[2] <= width && free(one, taken));
      if (!box) continue;
      taken.push(box);
      context.lineWidth = 3;
      context.strokeStyle = ground;
      context.strokeText(text, box[0] + 2, y);
      context.fillStyle = ink;
      context.fillText(text, box[0] + 2, y);
    }
  }
}

// Whether a box [left, top, right, bottom] overlaps none of the others.
function free(box, others) {
  return others.every(
    (other) =>
      box[0] > other[2] ||
      box[2] < other[0] ||
      box[1] > other[3] ||
      box[3] < other[1],
  );
}

// The context of a canvas whose pixels are those of the screen.
function fitted(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.max(1, Math.round(canvas.clientWidth * ratio));
  const height = Math.max(1, Math.round(canvas.clientHeight * ratio));
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}
