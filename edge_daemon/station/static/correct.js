// Drawing a corrected label image. Without this file one can still send one as a PNG.
"use strict";

// Colours that stay apart for the colour-blind, one a label value; over grey pictures.
const COLOURS = [[0, 0, 0], [255, 221, 0], [0, 191, 255], [255, 99, 71], [50, 205, 50], [238, 130, 238], [255, 165, 0],
                 [64, 224, 208], [255, 105, 180], [173, 255, 47], [135, 149, 255], [222, 184, 135], [240, 128, 128],
                 [127, 255, 212], [218, 165, 32]];
const colourOf = (value) => value === 255 ? [255, 255, 255] : value === 254 ? [130, 130, 130]
  : COLOURS[value] || COLOURS[1 + value % (COLOURS.length - 1)];
const MOST_UNDO_BYTES = 160 * 1048576;

function startEditor() {
  const editor = document.getElementById("editor"), form = document.getElementById("correct");
  if (!editor || !form) return;
  const width = Number(editor.dataset.width), height = Number(editor.dataset.height);
  const canvas = document.getElementById("paint"), paint = canvas.getContext("2d");
  const labels = new Uint8Array(width * height), undone = [];
  const box = editor.querySelector(".canvas"), layers = editor.querySelector(".layers");
  const value = document.getElementById("value"), brush = document.getElementById("width");
  const undo = document.getElementById("undo"), hide = document.getElementById("hide");
  const file = document.getElementById("mask");
  let tool = "brush", last = null, drawn = false, zoom = 0;
  editor.hidden = false;

  function show(left = 0, top = 0, right = width, bottom = height) {
    left = Math.max(0, left); top = Math.max(0, top); right = Math.min(width, right); bottom = Math.min(height, bottom);
    if (right <= left || bottom <= top) return;
    const part = paint.createImageData(right - left, bottom - top);
    for (let y = top, at = 0; y < bottom; y++) {
      for (let x = left; x < right; x++, at += 4) {
        const one = labels[y * width + x];
        if (!one) continue;
        const colour = colourOf(one);
        part.data[at] = colour[0]; part.data[at + 1] = colour[1]; part.data[at + 2] = colour[2]; part.data[at + 3] = 255;
      }
    }
    paint.putImageData(part, left, top);
  }

  function remember() {
    undone.push(labels.slice());
    while (undone.length > 1 && undone.length * labels.length > MOST_UNDO_BYTES) undone.shift();
    undo.disabled = false;
    drawn = true;
  }

  function dab(x, y) {
    const radius = Number(brush.value) / 2, paintWith = tool === "erase" ? 0 : Number(value.value);
    for (let v = Math.max(0, Math.ceil(y - radius)); v <= Math.min(height - 1, y + radius); v++) {
      for (let u = Math.max(0, Math.ceil(x - radius)); u <= Math.min(width - 1, x + radius); u++) {
        if ((u - x) ** 2 + (v - y) ** 2 <= radius * radius + 0.25) labels[v * width + u] = paintWith;
      }
    }
  }

  function stroke(from, to) {
    const steps = Math.max(1, Math.ceil(Math.hypot(to.x - from.x, to.y - from.y) / Math.max(1, brush.value / 4)));
    for (let step = 0; step <= steps; step++) {
      dab(from.x + (to.x - from.x) * step / steps, from.y + (to.y - from.y) * step / steps);
    }
    const pad = Math.ceil(brush.value / 2) + 2;
    show(Math.floor(Math.min(from.x, to.x)) - pad, Math.floor(Math.min(from.y, to.y)) - pad,
         Math.ceil(Math.max(from.x, to.x)) + pad, Math.ceil(Math.max(from.y, to.y)) + pad);
  }

  // Everything that hangs together with this pixel (8 neighbours, any type) becomes the chosen type.
  function fill(x, y) {
    const start = Math.floor(y) * width + Math.floor(x), paintWith = Number(value.value);
    if (!labels[start]) return;
    const seen = new Uint8Array(labels.length), stack = [start];
    seen[start] = 1;
    while (stack.length) {
      const at = stack.pop(), u = at % width, v = (at - u) / width;
      labels[at] = paintWith;
      for (let dv = -1; dv <= 1; dv++) {
        for (let du = -1; du <= 1; du++) {
          const a = u + du, b = v + dv, next = b * width + a;
          if (a < 0 || b < 0 || a >= width || b >= height || seen[next] || !labels[next]) continue;
          seen[next] = 1;
          stack.push(next);
        }
      }
    }
    show();
  }

  const where = (event) => {
    const area = canvas.getBoundingClientRect();
    return { x: (event.clientX - area.left) * width / area.width - 0.5, y: (event.clientY - area.top) * height / area.height - 0.5 };
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    event.preventDefault();
    remember();
    const point = where(event);
    if (tool === "fill") { fill(point.x + 0.5, point.y + 0.5); return; }
    canvas.setPointerCapture(event.pointerId);
    last = point;
    stroke(last, last);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!last) return;
    const point = where(event);
    stroke(last, point);
    last = point;
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { last = null; });

  for (const one of editor.querySelectorAll("button[data-tool]")) {
    one.addEventListener("click", () => {
      tool = one.dataset.tool;
      for (const other of editor.querySelectorAll("button[data-tool]")) {
        other.setAttribute("aria-pressed", String(other === one));
      }
    });
  }
  undo.addEventListener("click", () => {
    if (undone.length) labels.set(undone.pop());
    undo.disabled = !undone.length;
    show();
  });
  hide.addEventListener("click", () => {
    canvas.hidden = !canvas.hidden;
    canvas.style.visibility = canvas.hidden ? "hidden" : "visible";
    hide.setAttribute("aria-pressed", String(canvas.hidden));
  });

  function scale(wanted) {
    zoom = Math.min(16, Math.max(Math.min(1, box.clientWidth / width), wanted));
    layers.style.width = `${width * zoom}px`;
  }
  const fitted = () => Math.min(box.clientWidth / width, box.clientHeight / height);
  const steps = { in: () => scale(zoom * 1.5), out: () => scale(zoom / 1.5) };
  for (const one of editor.querySelectorAll("button[data-step]")) {
    one.addEventListener("click", () => {
      const middleX = (box.scrollLeft + box.clientWidth / 2) / zoom, middleY = (box.scrollTop + box.clientHeight / 2) / zoom;
      steps[one.dataset.step]();
      box.scrollTo(middleX * zoom - box.clientWidth / 2, middleY * zoom - box.clientHeight / 2);
    });
  }
  scale(Math.max(1, fitted()));

  for (const one of form.querySelectorAll(".swatch")) {
    one.style.background = `rgb(${colourOf(Number(one.dataset.value)).join(" ")})`;
  }

  async function begin() {
    if (!editor.dataset.labels) return;
    const answer = await fetch(editor.dataset.labels);
    if (!answer.ok) return;
    const picture = await createImageBitmap(await answer.blob(), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
    const read = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    read.drawImage(picture, 0, 0);
    const data = read.getImageData(0, 0, width, height).data;
    for (let at = 0; at < labels.length; at++) labels[at] = data[4 * at];
    show();
    editor.dataset.ready = "true";
  }
  begin();

  file.addEventListener("change", () => { drawn = false; });
  form.addEventListener("submit", async (event) => {
    if (!drawn && file.files.length) return;
    event.preventDefault();
    const out = new OffscreenCanvas(width, height), grey = out.getContext("2d"), picture = grey.createImageData(width, height);
    for (let at = 0; at < labels.length; at++) {
      picture.data[4 * at] = picture.data[4 * at + 1] = picture.data[4 * at + 2] = labels[at];
      picture.data[4 * at + 3] = 255;
    }
    grey.putImageData(picture, 0, 0);
    const list = new DataTransfer();
    list.items.add(new File([await out.convertToBlob({ type: "image/png" })], "drawn.png", { type: "image/png" }));
    file.files = list.files;
    form.submit();
  });
}

document.addEventListener("DOMContentLoaded", startEditor);
