// The page works without this file, except for zooming; nothing here decides or hides anything.
"use strict";

// ---- dropping, pasting and choosing a picture -----------------------------------------------------------------------

function startUpload() {
  const form = document.getElementById("inspect"), drop = document.getElementById("drop");
  const input = document.getElementById("picture"), chosen = document.getElementById("chosen");
  if (!form || !drop || !input) return;
  const preview = document.getElementById("preview");
  let shown = null;

  function show() {
    if (shown) URL.revokeObjectURL(shown);
    shown = null;
    const file = input.files[0];
    chosen.textContent = file ? `${file.name} · ${(file.size / 1048576).toFixed(1)} MiB` : "";
    preview.hidden = true;
    if (file && /^image\/(png|jpeg|bmp)$/.test(file.type)) {
      shown = URL.createObjectURL(file);
      preview.onload = () => { preview.hidden = false; };
      preview.src = shown;
    }
  }

  function take(file) {
    const list = new DataTransfer();
    list.items.add(file);
    input.files = list.files;
    show();
  }

  input.addEventListener("change", show);
  for (const name of ["dragenter", "dragover"]) {
    drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  for (const name of ["dragleave", "drop"]) {
    drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.remove("over"); });
  }
  drop.addEventListener("drop", (event) => { if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]); });
  document.addEventListener("paste", (event) => {
    const file = event.clipboardData && event.clipboardData.files[0];
    if (file) { event.preventDefault(); take(file); }
  });
  form.addEventListener("submit", () => { document.getElementById("go").setAttribute("aria-busy", "true"); });
}

// ---- the table's fields: an answer for one choice keeps what was typed and chosen meanwhile ---------------------------

function keepChoices() {
  let kept = new Map();
  const controls = () => document.querySelectorAll("#table-fields input, #table-fields select");
  document.body.addEventListener("htmx:before:swap", () => {
    kept = new Map([...controls()].map((one) => [one.name, one.value]));
  });
  document.body.addEventListener("htmx:after:swap", () => {
    for (const one of controls()) {
      const value = kept.get(one.name);
      const offered = one.tagName === "INPUT" || [...one.options].some((option) => option.value === value);
      if (value !== undefined && offered) one.value = value;
    }
  });
}

// ---- the picture: layers, zoom to the pixel, where one is ------------------------------------------------------------

function startViewer() {
  const viewer = document.getElementById("viewer");
  if (!viewer) return;
  const stage = viewer.querySelector(".stage"), sheet = viewer.querySelector(".sheet-of-pixels");
  const mark = viewer.querySelector(".mark"), readout = document.getElementById("readout");
  const width = Number(viewer.dataset.width), height = Number(viewer.dataset.height);
  let zoom = 1, x = 0, y = 0, grip = null, marked = null;
  const help = readout.textContent;

  const fitted = () => Math.min(stage.clientWidth / width, stage.clientHeight / height);

  function place() {
    const most = 64, least = Math.min(fitted(), 1) / 2;
    zoom = Math.min(most, Math.max(least, zoom));
    const across = stage.clientWidth, down = stage.clientHeight;
    x = width * zoom <= across ? (across - width * zoom) / 2 : Math.min(0, Math.max(across - width * zoom, x));
    y = height * zoom <= down ? (down - height * zoom) / 2 : Math.min(0, Math.max(down - height * zoom, y));
    sheet.style.transform = `translate(${x}px, ${y}px) scale(${zoom})`;
    sheet.classList.toggle("pixels", zoom >= 2);
    if (marked) {
      const pad = 4;
      Object.assign(mark.style, { left: `${x + marked[0] * zoom - pad}px`, top: `${y + marked[1] * zoom - pad}px`,
                                  width: `${marked[2] * zoom + 2 * pad}px`, height: `${marked[3] * zoom + 2 * pad}px` });
    }
  }

  function zoomTo(value, atX = stage.clientWidth / 2, atY = stage.clientHeight / 2) {
    const pictureX = (atX - x) / zoom, pictureY = (atY - y) / zoom;
    zoom = value;
    const most = 64, least = Math.min(fitted(), 1) / 2;
    zoom = Math.min(most, Math.max(least, zoom));
    x = atX - pictureX * zoom;
    y = atY - pictureY * zoom;
    place();
  }

  function fit() { zoom = fitted(); x = y = 0; place(); }

  function layer(name) {
    for (const one of sheet.querySelectorAll("img")) one.hidden = one.dataset.layer !== name;
    for (const one of viewer.querySelectorAll("button[data-layer]")) {
      one.setAttribute("aria-pressed", String(one.dataset.layer === name));
    }
  }

  const steps = { in: () => zoomTo(zoom * 1.5), out: () => zoomTo(zoom / 1.5), one: () => zoomTo(1), fit };
  for (const one of viewer.querySelectorAll("button[data-zoom]")) {
    one.addEventListener("click", () => steps[one.dataset.zoom]());
  }
  const layers = [...viewer.querySelectorAll("button[data-layer]")];
  for (const one of layers) one.addEventListener("click", () => layer(one.dataset.layer));

  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = stage.getBoundingClientRect();
    zoomTo(zoom * Math.exp(-event.deltaY * 0.0016), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });

  const pointers = new Map();
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, event);
    grip = { x: event.clientX - x, y: event.clientY - y, spread: 0, zoom };
  });
  stage.addEventListener("pointermove", (event) => {
    const box = stage.getBoundingClientRect();
    const px = Math.floor((event.clientX - box.left - x) / zoom), py = Math.floor((event.clientY - box.top - y) / zoom);
    readout.textContent = px >= 0 && py >= 0 && px < width && py < height ? `x ${px}, y ${py} · ${zoom.toFixed(2)}×` : help;
    if (!pointers.has(event.pointerId)) return;
    pointers.set(event.pointerId, event);
    if (pointers.size === 2) {
      const [one, two] = [...pointers.values()];
      const spread = Math.hypot(one.clientX - two.clientX, one.clientY - two.clientY);
      if (!grip.spread) { grip.spread = spread; grip.zoom = zoom; }
      zoomTo(grip.zoom * spread / grip.spread, (one.clientX + two.clientX) / 2 - box.left,
             (one.clientY + two.clientY) / 2 - box.top);
    } else if (grip) {
      x = event.clientX - grip.x;
      y = event.clientY - grip.y;
      place();
    }
  });
  for (const name of ["pointerup", "pointercancel"]) {
    stage.addEventListener(name, (event) => { pointers.delete(event.pointerId); grip = null; });
  }

  stage.addEventListener("keydown", (event) => {
    const move = 60;
    const keys = {
      "+": steps.in, "=": steps.in, "-": steps.out, "0": fit, "1": () => layers[0] && layers[0].click(),
      "2": () => layers[1] && layers[1].click(), "3": () => layers[2] && layers[2].click(),
      ArrowLeft: () => { x += move; place(); }, ArrowRight: () => { x -= move; place(); },
      ArrowUp: () => { y += move; place(); }, ArrowDown: () => { y -= move; place(); },
    };
    if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
  });

  for (const one of document.querySelectorAll("button[data-box]")) {
    one.addEventListener("click", () => {
      const [left, top, across, down] = one.dataset.box.split(" ").map(Number);
      marked = [left, top, across, down];
      mark.hidden = false;
      zoom = Math.min(12, Math.max(fitted(), Math.min(stage.clientWidth, stage.clientHeight) / (4 * Math.max(across, down, 12))));
      x = stage.clientWidth / 2 - (left + across / 2) * zoom;
      y = stage.clientHeight / 2 - (top + down / 2) * zoom;
      place();
      stage.focus({ preventScroll: true });
      stage.scrollIntoView({ block: "nearest" });
    });
  }
  new ResizeObserver(() => { if (zoom <= fitted() * 1.01) fit(); else place(); }).observe(stage);
  fit();
}

document.addEventListener("DOMContentLoaded", () => { startUpload(); keepChoices(); startViewer(); });
