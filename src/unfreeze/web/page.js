// The page of `unfreeze serve`. It uses the public REST API, and loads nothing from other servers.
// Text of the server, of a label map or of a file is inserted as text, never as markup.
"use strict";

const POLL_MS = 2000;
const MASK_THRESHOLD = 0.5;
const KEYPOINT_MIN_SCORE = 0.2;
const MAX_SIDE = 1024; // of an image that is sent as numbers: more would be many megabytes of JSON
const REQUIRED_OUTPUTS = ["detection_boxes", "detection_scores", "detection_classes"];

const $ = (id) => document.getElementById(id);
const state = {
  models: [], // names
  model: null,
  versions: [], // entries of the model's status, newest first
  pinned: null, // the selected version, or null for the newest
  about: null, // the signature and the card of the current version
  image: null, // the image that is sent and displayed
  result: null, // the detections of the image
  hidden: new Set(), // ids of the classes that are filtered out
  selected: null, // the one detection that is displayed, or null for all
  request: null, // AbortController of the request in flight
};

// ---- The server -----------------------------------------------------------------------------------------------------

class ServerError extends Error {}

async function fetchJson(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server does not respond. Is it still running?");
  }
  const text = await response.text();
  const document = parseJson(text);
  if (!response.ok) {
    const message = document && typeof document.error === "string" ? document.error : text.slice(0, 300);
    throw new ServerError(`The server responded with error ${response.status}: ${message || response.statusText}`);
  }
  if (document === undefined) throw new ServerError("The response of the server is not JSON.");
  return document;
}

// TensorFlow Serving writes NaN and Infinity bare, which is not JSON.
function parseJson(text) {
  for (const candidate of [text, text.replace(/([[,:]\s*)(?:NaN|-?Infinity)(?=\s*[\],}])/g, "$1null")]) {
    try {
      return JSON.parse(candidate);
    } catch {
      // try the next candidate
    }
  }
  return undefined;
}

const modelPath = (model, version) =>
  `v1/models/${encodeURIComponent(model)}` + (version === null ? "" : `/versions/${version}`);

const available = () => state.versions.filter(({ state }) => state === "AVAILABLE").map(({ version }) => version);
const newest = () => available()[0] ?? null;
const current = () => state.pinned ?? newest();

async function poll() {
  try {
    await refresh();
    setText("offline", "");
  } catch (error) {
    setText("offline", `${error.message} Retrying every ${POLL_MS / 1000} seconds.`);
  }
  setTimeout(poll, POLL_MS);
}

// Reads which models and versions are loaded, announces changes, and runs the image again if the version changed.
async function refresh() {
  const { models } = await fetchJson("v1/models");
  if (models.join("\n") !== state.models.join("\n")) {
    state.models = models;
    showModels();
  }
  if (state.model === null) return;
  const model = state.model;
  const versions = (await fetchJson(modelPath(model, null))).model_version_status ?? [];
  if (model !== state.model) return; // another model was selected meanwhile
  const before = { known: available(), current: current(), text: JSON.stringify(state.versions) };
  state.versions = versions.sort((a, b) => Number(BigInt(b.version) - BigInt(a.version)));
  if (JSON.stringify(state.versions) !== before.text) announceChanges(before);
  if (current() !== null && state.about?.key !== `${model}/${current()}`) await loadVersion();
}

function announceChanges(before) {
  const now = available();
  const added = now.filter((version) => !before.known.includes(version));
  const news = before.known.length ? added.map((version) => `Version ${version} is available.`) : [];
  if (state.pinned !== null && !now.includes(state.pinned)) {
    news.push(`Version ${state.pinned} was unloaded; the newest one is used.`);
    state.pinned = null;
  }
  showVersions();
  if (news.length) setText("announcement", news.join(" "));
}

// Loads the signatures and the card of the current version, then runs the image on it.
async function loadVersion() {
  const [model, version] = [state.model, current()];
  const [metadata, card] = await Promise.all([
    fetchJson(`${modelPath(model, version)}/metadata`),
    fetchJson(`page/card?${new URLSearchParams({ model, version })}`),
  ]);
  if (model !== state.model || version !== current()) return;
  const signatures = metadata.metadata.signature_def.signature_def;
  state.about = { key: `${model}/${version}`, card, signature: selectSignature(signatures), all: signatures };
  showCard();
  if (state.image) predict();
}

// Returns the signature that takes an image file, otherwise one that takes pixels, otherwise null.
function selectSignature(signatures) {
  const names = Object.keys(signatures).sort();
  const usable = names.map((name) => readSignature(name, signatures[name])).filter(Boolean);
  const order = ({ name, kind, certain }) =>
    kind === "file" ? (name === "encoded_image_string_tensor" ? 0 : certain ? 1 : 4) : name === "image_tensor" ? 2 : 3;
  return usable.sort((a, b) => order(a) - order(b))[0] ?? null;
}

function readSignature(name, { inputs, outputs }) {
  if (Object.keys(inputs).length !== 1 || !REQUIRED_OUTPUTS.every((output) => output in outputs)) return null;
  const [{ name: tensor, dtype, tensor_shape: shape }] = Object.values(inputs);
  const sizes = shape.unknown_rank ? null : shape.dim.map(({ size }) => Number(size));
  const copies = Math.max(1, sizes?.[0] ?? 1);
  const isNamed = (prefix) => [name, tensor].some((text) => text.startsWith(prefix));
  // A string input with any other name takes image files more often than tf.Examples.
  if (dtype === "DT_STRING" && isNamed("tf_example")) return null;
  if (dtype === "DT_STRING") return { name, kind: "file", copies, certain: isNamed("encoded_image_string_tensor") };
  if (!["DT_UINT8", "DT_FLOAT"].includes(dtype) || sizes?.length !== 4 || ![3, -1].includes(sizes[3])) return null;
  return { name, kind: "pixels", copies, height: sizes[1], width: sizes[2] };
}

// ---- The image ------------------------------------------------------------------------------------------------------

async function openFile(file) {
  if (!file) return;
  setText("error", "");
  const opening = (state.opening = (state.opening ?? 0) + 1);
  let image;
  try {
    image = await prepareImage(file);
  } catch {
    setText("error", `${file.name} is not an image that this browser can read. Choose a JPEG, PNG, GIF, BMP or WebP file.`);
    return;
  }
  if (opening !== state.opening) return URL.revokeObjectURL(image.url); // another file was chosen meanwhile
  if (state.image) URL.revokeObjectURL(state.image.url);
  Object.assign(state, { image, result: null, selected: null, hidden: new Set() });
  showImage();
  predict();
}

// The image that is sent is the one that is displayed. TensorFlow's decoder ignores the EXIF orientation and reads four
// formats, so the browser encodes a rotated image, or one of another format, again.
async function prepareImage(file) {
  const head = new DataView(await file.arrayBuffer());
  const format = formatOf(head);
  const rotated = (format === "jpeg" && orientationOfJpeg(head) !== 1) || (format === "png" && hasExif(head));
  const bitmap = await createImageBitmap(file);
  const image = { name: file.name || "image", blob: file, conversion: "", width: bitmap.width, height: bitmap.height };
  if (rotated || !format) {
    const type = format === "jpeg" ? "image/jpeg" : "image/png";
    image.blob = await toBlob(canvasOf(bitmap, bitmap.width, bitmap.height), type);
    image.conversion = rotated ? "rotated upright" : "converted to PNG";
    image.name = `${image.name.replace(/\.[^.]*$/, "")}-${rotated ? "upright" : "converted"}.${type === "image/png" ? "png" : "jpg"}`;
  }
  bitmap.close();
  image.url = URL.createObjectURL(image.blob);
  return image;
}

function formatOf(view) {
  const signatures = { jpeg: [0xff, 0xd8, 0xff], png: [0x89, 0x50, 0x4e, 0x47], gif: [0x47, 0x49, 0x46, 0x38], bmp: [0x42, 0x4d] };
  const matches = ([, bytes]) => bytes.length <= view.byteLength && bytes.every((byte, at) => view.getUint8(at) === byte);
  return Object.entries(signatures).find(matches)?.[0] ?? null;
}

// The tag Orientation of a JPEG's EXIF: 1 is upright.
function orientationOfJpeg(view) {
  try {
    for (let at = 2; view.getUint8(at) === 0xff && view.getUint8(at + 1) !== 0xda; at += 2 + view.getUint16(at + 2)) {
      if (view.getUint8(at + 1) !== 0xe1 || view.getUint32(at + 4) !== 0x45786966) continue;
      const tiff = at + 10;
      const little = view.getUint16(tiff) === 0x4949;
      const directory = tiff + view.getUint32(tiff + 4, little);
      for (let entry = 0; entry < view.getUint16(directory, little); entry++) {
        const tag = directory + 2 + 12 * entry;
        if (view.getUint16(tag, little) === 0x0112) return view.getUint16(tag + 8, little);
      }
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // an incomplete EXIF block has no orientation
  }
  return 1;
}

function hasExif(view) {
  for (let at = 8; at + 8 <= view.byteLength; at += 12 + view.getUint32(at)) {
    const type = view.getUint32(at + 4);
    if (type === 0x65584966) return true; // eXIf
    if (type === 0x49444154) return false; // IDAT
  }
  return false;
}

function canvasOf(image, width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d", { willReadFrequently: true }).drawImage(image, 0, 0, width, height);
  return canvas;
}

const toBlob = (canvas, type) =>
  new Promise((resolve, reject) =>
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("too large"))), type, 0.95),
  );

// ---- Prediction------------------------------------------------------------------------------------------------------

async function predict() {
  state.request?.abort();
  const { image, about } = state;
  if (!image || !about) return;
  setText("error", "");
  $("retry").hidden = true;
  if (!about.signature) {
    Object.assign(state, { request: null, result: null });
    const listed = Object.keys(about.all).sort().join(", ");
    setText("error", `This model has no signature that takes only an image and returns detections (found: ${listed}).`);
    showBusy(null);
    return showResult();
  }
  const controller = (state.request = new AbortController());
  const started = performance.now();
  const stop = showBusy(started);
  try {
    const request = await buildRequest(image, about.signature);
    controller.signal.throwIfAborted();
    showRequest(request, image);
    const sent = performance.now();
    const options = { method: "POST", body: request.body, headers: { "Content-Type": "application/json" }, signal: controller.signal };
    const response = await fetchJson(request.path, options);
    const seconds = (performance.now() - sent) / 1000;
    if (state.request !== controller) return;
    state.result = { ...readDetections(response.predictions[0], about.card.class_names, image), seconds, version: about.card.version };
  } catch (error) {
    if (state.request !== controller) return; // replaced by a newer request
    state.result = null;
    const message = error.name === "AbortError" ? "Cancelled." : error instanceof ServerError ? error.message : `The response cannot be displayed: ${error.message}`;
    setText("error", message);
    $("retry").hidden = false;
  } finally {
    stop();
    if (state.request === controller) {
      state.request = null;
      showBusy(null);
      showResult();
    }
  }
}

async function buildRequest(image, signature) {
  const path = `${modelPath(state.model, state.pinned)}:predict`;
  const frame = [`{"signature_name": ${JSON.stringify(signature.name)}, "instances": [`, "]}"];
  const instance = signature.kind === "file" ? await fileAsJson(image) : await pixelsAsJson(image, signature);
  const body = frame[0] + Array(signature.copies).fill(instance.json).join(", ") + frame[1];
  return { path, body, signature, note: instance.note };
}

async function fileAsJson(image) {
  const dataUrl = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("the image file can no longer be read"));
    reader.readAsDataURL(image.blob);
  });
  const note = image.conversion
    ? `The image was ${image.conversion} before it was sent, because the decoder of the model does not do that. Save stores what was sent.`
    : "";
  return { json: `{"b64": "${dataUrl.slice(dataUrl.indexOf(",") + 1)}"}`, note };
}

async function pixelsAsJson(image, signature) {
  const bitmap = await createImageBitmap(image.blob);
  const scale = Math.min(1, MAX_SIDE / Math.max(bitmap.width, bitmap.height));
  const width = signature.width > 0 ? signature.width : Math.max(1, Math.round(bitmap.width * scale));
  const height = signature.height > 0 ? signature.height : Math.max(1, Math.round(bitmap.height * scale));
  const { data } = canvasOf(bitmap, width, height).getContext("2d").getImageData(0, 0, width, height);
  bitmap.close();
  const rows = [];
  for (let y = 0, at = 0; y < height; y++) {
    const row = [];
    for (let x = 0; x < width; x++, at += 4) row.push(`[${data[at]},${data[at + 1]},${data[at + 2]}]`);
    rows.push(`[${row.join(",")}]`);
  }
  const note = `This model does not take image files, so ${width} × ${height} pixels were sent as numbers. Save stores that request.`;
  return { json: `[${rows.join(",")}]`, note };
}

// ---- Detections ----------------------------------------------------------------------------------------------------

function readDetections(response, names, image) {
  const total = response.detection_scores.length;
  const count = Math.min(total, response.num_detections ?? total);
  const all = [];
  for (let index = 0; index < count; index++) {
    const [score, box] = [response.detection_scores[index], response.detection_boxes[index]];
    if (score === null || box.includes(null)) continue; // not a number
    const id = Math.round(response.detection_classes[index]);
    const mask = response.detection_masks?.[index];
    const coversImage = mask && mask.length === image.height && mask[0].length === image.width;
    const points = response.detection_keypoints?.[index] ?? [];
    const scores = response.detection_keypoint_scores?.[index];
    const name = names[id] || response.detection_class_names?.[index] || `class ${id}`;
    const keypoints = points
      .map(([y, x], point) => ({ y, x, score: scores?.[point] ?? 1 }))
      .filter(({ x, y, score }) => score >= KEYPOINT_MIN_SCORE && y >= 0 && y <= 1 && x >= 0 && x <= 1);
    all.push({ id, name, score, box, mask, maskBox: coversImage ? [0, 0, 1, 1] : box, keypoints });
  }
  return { all: all.sort((a, b) => b.score - a.score) };
}

const threshold = () => Number($("threshold").value);
const aboveThreshold = () => state.result?.all.filter(({ score }) => score > 0 && score >= threshold()) ?? [];
const visible = () => aboveThreshold().filter(({ id }) => !state.hidden.has(id));

// Hues a golden ratio apart, so that classes with neighboring ids have different colors.
function colorOf(id) {
  const hue = (0.35 + id * 0.618033988749895) % 1;
  const value = Math.floor(id / 7) % 2 ? 0.82 : 1;
  const channel = (offset) => {
    const along = Math.abs(((hue * 6 + offset) % 6) - 3) - 1;
    return Math.round(255 * value * (1 - 0.8 + 0.8 * Math.min(Math.max(along, 0), 1)));
  };
  return [channel(0), channel(4), channel(2)];
}

const css = ([red, green, blue]) => `rgb(${red}, ${green}, ${blue})`;
const legibleOn = ([red, green, blue]) => (0.299 * red + 0.587 * green + 0.114 * blue > 140 ? "#000" : "#fff");
const percent = (score) => `${Math.round(score * 100)} %`;

// Converts a normalized box to pixels and clips it to the image.
function boxInPixels([ymin, xmin, ymax, xmax], width, height) {
  const clip = (value, size) => Math.min(Math.max(value * size, 0), size);
  const [top, bottom] = [clip(ymin, height), clip(ymax, height)].sort((a, b) => a - b);
  const [left, right] = [clip(xmin, width), clip(xmax, width)].sort((a, b) => a - b);
  return { top, left, bottom, right };
}

// ---- Display -------------------------------------------------------------------------------------------------------

function setText(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

function element(name, properties = {}, children = []) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

function svg(name, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

function showModels() {
  if (!state.models.includes(state.model)) selectModel(state.models[0] ?? null);
  $("model").replaceChildren(...state.models.map((name) => element("option", { value: name, textContent: name })));
  $("model").value = state.model;
  $("model-field").hidden = state.models.length < 2;
}

function selectModel(model) {
  state.request?.abort();
  state.request = null;
  showBusy(null);
  Object.assign(state, { model, versions: [], pinned: null, about: null, result: null, selected: null, hidden: new Set() });
  setText("title", model ?? "unfreeze");
  document.title = model ? `${model} · unfreeze` : "unfreeze";
  showVersions();
  showResult();
}

function showVersions() {
  const [latest, options] = [newest(), []];
  options.push(element("option", { value: "", textContent: latest === null ? "none loaded" : `newest (${latest})` }));
  for (const { version, state: versionState, status } of state.versions) {
    const failed = status?.error_code !== "OK" && status?.error_message;
    if (versionState === "AVAILABLE") options.push(element("option", { value: version, textContent: version }));
    else if (failed) options.push(element("option", { value: version, textContent: `${version} (failed)`, title: status.error_message, disabled: true }));
    else if (versionState !== "END") options.push(element("option", { value: version, textContent: `${version} (${versionState.toLowerCase()})`, disabled: true }));
  }
  $("version").replaceChildren(...options);
  $("version").value = state.pinned ?? "";
}

function showImage() {
  $("empty").hidden = true;
  $("figure").hidden = false;
  $("image").src = state.image.url;
  $("image").alt = `Image ${state.image.name}`;
  const { name, width, height, conversion } = state.image;
  // A small image is enlarged; a large one is limited by the window.
  $("frame").style.width = `min(100%, ${Math.max(width, 480)}px, ${(68 * width) / height}vh)`;
  setText("caption", `${name}, ${width} × ${height}${conversion ? `, ${conversion}` : ""}`);
  setText("file-label", "Choose another image");
  $("request").hidden = true;
  showResult();
}

// Shows over the image that a request is in flight, with the seconds after the first one; null hides it.
function showBusy(started) {
  $("busy").hidden = started === null;
  $("figure").setAttribute("aria-busy", String(started !== null));
  if (started === null) return () => {};
  const tick = () => {
    const seconds = Math.floor((performance.now() - started) / 1000);
    setText("busy-text", seconds ? `Running … ${seconds} s` : "Running …");
  };
  tick();
  const timer = setInterval(tick, 1000);
  return () => clearInterval(timer);
}

function showResult() {
  showClasses();
  showRows();
  showSummary();
  draw();
}

function showSummary() {
  if (!state.result) return setText("summary", "");
  const counts = new Map();
  for (const { name } of visible()) counts.set(name, (counts.get(name) ?? 0) + 1);
  const listed = [...counts].map(([name, count]) => (count > 1 ? `${count} × ${name}` : name)).join(", ");
  const { seconds, version } = state.result;
  setText("summary", `${listed || "No detections"} with a score of at least ${percent(threshold())}. Version ${version} responded in ${seconds.toFixed(seconds < 10 ? 2 : 1)} s.`);
}

function showClasses() {
  const counts = new Map();
  for (const { id, name } of aboveThreshold()) counts.set(id, { name, count: (counts.get(id)?.count ?? 0) + 1 });
  // A class that is filtered out stays in the list, so that it can be selected again.
  for (const { id, name } of state.result?.all ?? [])
    if (state.hidden.has(id) && !counts.has(id)) counts.set(id, { name, count: 0 });
  const classes = [...counts].sort((a, b) => a[0] - b[0]);
  const focused = document.activeElement?.dataset?.classId;
  $("class-list").replaceChildren(...classes.map(([id, { name, count }]) => chip(id, name, count)));
  if (focused !== undefined) $("class-list").querySelector(`[data-class-id="${focused}"]`)?.focus();
  $("classes").hidden = classes.length === 0;
}

function chip(id, name, count) {
  const box = element("input", { type: "checkbox", checked: !state.hidden.has(id) });
  box.dataset.classId = id;
  box.addEventListener("change", () => {
    state.hidden[box.checked ? "delete" : "add"](id);
    state.selected = null;
    showResult();
  });
  const dot = element("span", { className: "dot" });
  dot.style.background = css(colorOf(id));
  return element("label", { className: "chip" }, [box, dot, name, element("span", { className: "muted", textContent: ` ${count}` })]);
}

function showRows() {
  const detections = visible();
  $("rows").replaceChildren(...detections.map(row));
  $("detections").hidden = detections.length === 0;
  const reason = state.result ? "No detections above the score threshold" : "No detections yet";
  setText("no-detections", detections.length ? "" : reason);
}

function row(detection) {
  const { width, height } = state.image;
  const { top, left, bottom, right } = boxInPixels(detection.box, width, height);
  const dot = element("span", { className: "dot" });
  dot.style.background = css(colorOf(detection.id));
  const button = element("button", { type: "button", className: "name" }, [dot, detection.name]);
  button.setAttribute("aria-pressed", String(state.selected === detection));
  button.addEventListener("click", () => {
    state.selected = state.selected === detection ? null : detection;
    for (const any of $("rows").querySelectorAll("button")) any.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-pressed", String(state.selected === detection));
    draw();
  });
  const place = `${Math.round(left)}, ${Math.round(top)}, ${Math.round(right - left)} × ${Math.round(bottom - top)}`;
  const head = element("th", { scope: "row" }, [button]);
  return element("tr", {}, [head, element("td", { textContent: percent(detection.score) }), element("td", { textContent: place })]);
}

function showRequest({ path, body, signature, note }, image) {
  const address = shellQuote(new URL(path, document.baseURI).href);
  const isFile = signature.kind === "file";
  const [start, end] = [`{"signature_name": ${JSON.stringify(signature.name)}, "instances": [{"b64": "`, `"}]}`];
  const safeName = image.name.startsWith("-") ? `./${image.name}` : image.name;
  const command =
    isFile && signature.copies === 1
      ? `(printf %s ${shellQuote(start)}; base64 < ${shellQuote(safeName)} | tr -d '\\n'; echo ${shellQuote(end)}) |\n  curl -d @- ${address}`
      : `curl -d @request.json ${address}`;
  setText("curl", command);
  const saved = isFile && signature.copies === 1 ? image.conversion && image.blob : new Blob([body], { type: "application/json" });
  if ($("save").href) URL.revokeObjectURL($("save").href);
  $("save").hidden = !saved;
  if (saved) {
    $("save").href = URL.createObjectURL(saved);
    $("save").download = saved === image.blob ? image.name : "request.json";
    setText("save", saved === image.blob ? "Save the image that was sent" : "Save request.json");
  } else $("save").removeAttribute("href");
  setText("request-note", note);
  setText("copy-status", "");
  $("request").hidden = false;
}

const shellQuote = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function showCard() {
  const { card, signature } = state.about;
  const record = card.export;
  const rows = [["Version", card.version]];
  if (record) {
    const architecture = [record.feature_extractor, record.model && `(${record.model})`].filter(Boolean).join(" ");
    const classes = record.num_classes && `${record.num_classes} classes`;
    rows.push(["Architecture", [architecture || "frozen graph", classes].filter(Boolean).join(", ")]);
    if (record.checkpoint) rows.push(["Checkpoint", checkpointText(record.checkpoint)], ...hashes(record.checkpoint.files));
    if (record.graph) rows.push(["Graph", record.graph.name], ["SHA-256", record.graph.sha256]);
    rows.push(["Exported", `${new Date(record.exported_at).toLocaleString()} by unfreeze ${record.unfreeze}, TensorFlow ${record.tensorflow}`]);
    rows.push(["Verification", record.verified ? "verified at export" : "not verified"]);
  }
  const names = Object.keys(card.class_names).length;
  rows.push(["Class names", names ? `${names}, from the label map` : "none: exported without a label map"]);
  if (signature) rows.push(["Signature", signature.name]);
  $("card").replaceChildren(...rows.flatMap(([term, text]) => [element("dt", { textContent: term }), element("dd", { textContent: text, className: term === "SHA-256" ? "hash" : "" })]));
  showChecks(record?.checks ?? []);
  const unknown = record ? [] : ["This model has no export.json, so its origin is unknown."];
  setText("card-note", [...unknown, ...card.problems].join(" "));
}

const checkpointText = ({ name, step, format }) => `${name}${step === null ? "" : `, step ${step}`}, ${format}`;

// Returns the hash of the file with the weights, which identifies a checkpoint.
function hashes(files) {
  const data = Object.entries(files ?? {}).filter(([name]) => !/\.(index|meta)$/.test(name));
  return data.slice(0, 1).map(([, { sha256 }]) => ["SHA-256", sha256]);
}

function showChecks(checks) {
  $("checks").hidden = checks.length === 0;
  const counts = new Map();
  for (const { status } of checks) counts.set(status, (counts.get(status) ?? 0) + 1);
  const listed = [...counts].map(([status, count], at) => `${count} ${at ? "" : count > 1 ? "checks " : "check "}${status}`);
  setText("checks-summary", `Verification: ${listed.join(", ")}`);
  $("check-list").replaceChildren(
    ...checks.map(({ name, status, detail }) =>
      element("li", { className: status }, [element("strong", { textContent: name }), ` ${status}: ${detail}`]),
    ),
  );
}

// ---- Drawing --------------------------------------------------------------------------------------------------------

function draw() {
  const [boxes, masks] = [$("boxes"), $("masks")];
  boxes.replaceChildren();
  masks.width = masks.height = 0;
  const { width, height } = $("image").getBoundingClientRect();
  if (!state.result || !width) return;
  const lowestFirst = visible().filter((detection) => !state.selected || detection === state.selected).reverse();
  boxes.setAttribute("viewBox", `0 0 ${width} ${height}`);
  drawMasks(masks, lowestFirst, width, height);
  for (const detection of lowestFirst) drawBox(boxes, detection, width, height);
  const placed = [];
  for (const detection of lowestFirst.slice().reverse()) drawLabel(boxes, detection, width, height, placed);
}

function drawBox(boxes, detection, width, height) {
  const { top, left, bottom, right } = boxInPixels(detection.box, width, height);
  const place = { x: left, y: top, width: right - left, height: bottom - top, rx: 3, fill: "none" };
  boxes.append(
    svg("rect", { ...place, stroke: "rgba(0, 0, 0, 0.45)", "stroke-width": 4.5 }),
    svg("rect", { ...place, class: "box", stroke: css(colorOf(detection.id)), "stroke-width": 2.5 }),
  );
  for (const { y, x } of detection.keypoints)
    boxes.append(svg("circle", { class: "keypoint", cx: x * width, cy: y * height, r: 4, fill: css(colorOf(detection.id)), stroke: "#fff", "stroke-width": 1.5 }));
}

// Draws a label above, below or inside its box, where it covers least of the labels with higher scores.
function drawLabel(boxes, detection, width, height, placed) {
  const color = colorOf(detection.id);
  const text = svg("text", { class: "label", fill: legibleOn(color) });
  text.textContent = `${detection.name} ${percent(detection.score)}`;
  boxes.append(text);
  const [wide, high] = [Math.min(text.getComputedTextLength() + 10, width), 20];
  const { top, left, bottom, right } = boxInPixels(detection.box, width, height);
  const corners = [top - high, bottom, top, bottom - high].flatMap((y) => [[left - 1, y], [right - wide + 1, y]]);
  const places = corners.map(([x, y]) => ({
    x: Math.max(0, Math.min(x, width - wide)), y: Math.max(0, Math.min(y, height - high)), wide, high,
  }));
  const covered = (place) => placed.reduce((sum, label) => sum + overlap(place, label), 0);
  const best = places.reduce((a, b) => (covered(b) < covered(a) ? b : a));
  placed.push(best);
  text.setAttribute("x", best.x + 5);
  text.setAttribute("y", best.y + 14.5);
  text.before(svg("rect", { x: best.x, y: best.y, width: wide, height: high, rx: 4, fill: css(color) }));
}

function overlap(a, b) {
  const across = Math.min(a.x + a.wide, b.x + b.wide) - Math.max(a.x, b.x);
  const down = Math.min(a.y + a.high, b.y + b.high) - Math.max(a.y, b.y);
  return Math.max(across, 0) * Math.max(down, 0);
}

function drawMasks(canvas, detections, width, height) {
  if (!detections.some(({ mask }) => mask)) return;
  Object.assign(canvas, { width: Math.round(width), height: Math.round(height) });
  const context = canvas.getContext("2d");
  for (const detection of detections) if (detection.mask) drawMask(context, detection, canvas.width, canvas.height);
}

// Scales the small mask of the model to its box, as smooth opacity, then applies the threshold.
function drawMask(context, detection, width, height) {
  const [rows, columns] = [detection.mask.length, detection.mask[0].length];
  const small = new ImageData(columns, rows);
  detection.mask.flat().forEach((value, at) => (small.data[4 * at + 3] = Math.round(255 * (value ?? 0))));
  const source = Object.assign(document.createElement("canvas"), { width: columns, height: rows });
  source.getContext("2d").putImageData(small, 0, 0);
  const layer = Object.assign(document.createElement("canvas"), { width, height });
  const drawing = layer.getContext("2d", { willReadFrequently: true });
  const [ymin, xmin, ymax, xmax] = detection.maskBox;
  drawing.drawImage(source, xmin * width, ymin * height, (xmax - xmin) * width, (ymax - ymin) * height);
  const pixels = drawing.getImageData(0, 0, width, height);
  const color = colorOf(detection.id);
  for (let at = 0; at < pixels.data.length; at += 4) {
    const inside = pixels.data[at + 3] > 255 * MASK_THRESHOLD;
    if (inside) pixels.data.set(color, at);
    pixels.data[at + 3] = inside ? 115 : 0;
  }
  drawing.putImageData(pixels, 0, 0);
  context.drawImage(layer, 0, 0);
}

// ---- Events --------------------------------------------------------------------------------------------------------

for (const id of ["file", "camera"])
  $(id).addEventListener("change", (event) => {
    openFile(event.target.files[0]);
    event.target.value = ""; // so that the same file can be chosen again
  });
$("empty").addEventListener("click", () => $("file").click()); // a large touch target beside the labeled button
$("retry").addEventListener("click", predict);
$("cancel").addEventListener("click", () => {
  state.request?.abort();
  $("retry").hidden = false;
  $("retry").focus();
});
$("threshold").addEventListener("input", () => {
  setText("threshold-value", percent(threshold()));
  $("threshold").setAttribute("aria-valuetext", percent(threshold()));
  state.selected = null;
  showResult();
});
$("model").addEventListener("change", () => {
  selectModel($("model").value);
  refresh().catch((error) => setText("error", error.message));
});
$("version").addEventListener("change", () => {
  state.pinned = $("version").value || null;
  loadVersion().catch((error) => setText("error", error.message));
});
$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText($("curl").textContent);
    setText("copy-status", "Copied.");
  } catch {
    // Without https, a page of another machine has no clipboard: the user can copy the selected text.
    getSelection().selectAllChildren($("curl"));
    setText("copy-status", "Selected. Press Ctrl-C to copy.");
  }
});
for (const name of ["dragenter", "dragover", "dragleave", "drop"])
  document.addEventListener(name, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    const leaving = name === "drop" || (name === "dragleave" && event.relatedTarget === null);
    $("dropzone").classList.toggle("over", !leaving);
    if (name === "drop") openFile(event.dataTransfer.files[0]);
  });
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) openFile(event.clipboardData.files[0]);
});
$("image").addEventListener("load", draw);
new ResizeObserver(draw).observe($("image"));
document.documentElement.classList.toggle("touch", navigator.maxTouchPoints > 0); // such devices have a camera
poll();
