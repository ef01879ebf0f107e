// The page of `unfreeze serve`. It asks by the REST that everybody uses; from elsewhere it loads nothing.
// Everything that a server, a label map or a file says reaches the page as text, never as markup.
"use strict";

const POLL_MS = 2000;
const MASK_THRESHOLD = 0.5;
const KEYPOINT_MIN_SCORE = 0.2;
const LONGEST_SIDE = 1024; // of a picture that goes as numbers: more would be many megabytes of JSON
const NEEDED = ["detection_boxes", "detection_scores", "detection_classes"];

const $ = (id) => document.getElementById(id);
const state = {
  models: [], // names
  model: null,
  versions: [], // of the model, newest first, as the status tells them
  pinned: null, // the version chosen, or null for the newest
  about: null, // of the version that answers: its signature and its card
  picture: null, // what is sent and drawn
  found: null, // what the model said of it
  hidden: new Set(), // class numbers that are filtered out
  alone: null, // the index of the one detection that is shown alone
  asking: null, // AbortController of the request under way
};

// ---- The server -----------------------------------------------------------------------------------------------------

class ServerError extends Error {}

async function fetchJson(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server does not answer. Is it still running?");
  }
  const text = await response.text();
  const document = parsed(text);
  if (!response.ok) {
    const told = document && typeof document.error === "string" ? document.error : text.slice(0, 300);
    throw new ServerError(`The server refused (${response.status}): ${told || response.statusText}`);
  }
  if (document === undefined) throw new ServerError("The server answered something that is not JSON.");
  return document;
}

// TensorFlow Serving writes NaN and Infinity bare, which is not JSON.
function parsed(text) {
  for (const candidate of [text, text.replace(/([[,:]\s*)(?:NaN|-?Infinity)(?=\s*[\],}])/g, "$1null")]) {
    try {
      return JSON.parse(candidate);
    } catch {
      // the next one
    }
  }
  return undefined;
}

const modelPath = (model, version) =>
  `v1/models/${encodeURIComponent(model)}` + (version === null ? "" : `/versions/${version}`);

const answering = () => state.versions.filter((version) => version.state === "AVAILABLE").map((one) => one.version);
const newest = () => answering()[0] ?? null;
const current = () => state.pinned ?? newest();

async function poll() {
  try {
    await look();
    say("offline", "");
  } catch (error) {
    say("offline", `${error.message} Looking again every ${POLL_MS / 1000} seconds.`);
  }
  setTimeout(poll, POLL_MS);
}

// Look at what is loaded; what has changed since is told, and the picture is asked about again where it matters.
async function look() {
  const { models } = await fetchJson("v1/models");
  if (models.join("\n") !== state.models.join("\n")) {
    state.models = models;
    showModels();
  }
  if (state.model === null) return;
  const model = state.model;
  const versions = (await fetchJson(modelPath(model, null))).model_version_status ?? [];
  if (model !== state.model) return; // another was chosen meanwhile
  const before = { known: answering(), current: current(), text: JSON.stringify(state.versions) };
  state.versions = versions.sort((a, b) => Number(BigInt(b.version) - BigInt(a.version)));
  if (JSON.stringify(state.versions) !== before.text) changed(before);
  if (current() !== null && state.about?.key !== `${model}/${current()}`) await meet();
}

function changed(before) {
  const now = answering();
  const added = now.filter((version) => !before.known.includes(version));
  const news = before.known.length ? added.map((version) => `Version ${version} is here.`) : [];
  if (state.pinned !== null && !now.includes(state.pinned)) {
    news.push(`Version ${state.pinned} has gone; the newest answers.`);
    state.pinned = null;
  }
  showVersions();
  if (news.length) say("news", news.join(" "));
}

// Learn how the current version is asked and what its classes are called, then ask it about the picture.
async function meet() {
  const [model, version] = [state.model, current()];
  const [metadata, card] = await Promise.all([
    fetchJson(`${modelPath(model, version)}/metadata`),
    fetchJson(`page/card?${new URLSearchParams({ model, version })}`),
  ]);
  if (model !== state.model || version !== current()) return;
  const signatures = metadata.metadata.signature_def.signature_def;
  state.about = { key: `${model}/${version}`, card, signature: chosenSignature(signatures), all: signatures };
  showCard();
  if (state.picture) ask();
}

// The signature that takes a picture's file, or else one that takes pixels.
function chosenSignature(signatures) {
  const names = Object.keys(signatures).sort();
  const able = names.map((name) => readSignature(name, signatures[name])).filter(Boolean);
  const order = ({ name, kind, sure }) =>
    kind === "file" ? (name === "encoded_image_string_tensor" ? 0 : sure ? 1 : 4) : name === "image_tensor" ? 2 : 3;
  return able.sort((a, b) => order(a) - order(b))[0] ?? null;
}

function readSignature(name, { inputs, outputs }) {
  if (Object.keys(inputs).length !== 1 || !NEEDED.every((output) => output in outputs)) return null;
  const [{ name: tensor, dtype, tensor_shape: shape }] = Object.values(inputs);
  const sizes = shape.unknown_rank ? null : shape.dim.map((one) => Number(one.size));
  const copies = Math.max(1, sizes?.[0] ?? 1);
  const says = (form) => [name, tensor].some((text) => text.startsWith(form));
  // A string that nothing tells of is a file's more often than a tf.Example.
  if (dtype === "DT_STRING" && says("tf_example")) return null;
  if (dtype === "DT_STRING") return { name, kind: "file", copies, sure: says("encoded_image_string_tensor") };
  if (!["DT_UINT8", "DT_FLOAT"].includes(dtype) || sizes?.length !== 4 || ![3, -1].includes(sizes[3])) return null;
  return { name, kind: "pixels", copies, height: sizes[1], width: sizes[2] };
}

// ---- The picture ----------------------------------------------------------------------------------------------------

async function take(file) {
  if (!file) return;
  say("problem", "");
  const turn = (state.taking = (state.taking ?? 0) + 1);
  let picture;
  try {
    picture = await prepared(file);
  } catch {
    say("problem", `${file.name} is not a picture that this browser can read. Choose a JPEG, PNG, GIF, BMP or WebP file.`);
    return;
  }
  if (turn !== state.taking) return URL.revokeObjectURL(picture.url); // another was chosen meanwhile
  if (state.picture) URL.revokeObjectURL(state.picture.url);
  Object.assign(state, { picture, found: null, alone: null, hidden: new Set() });
  showPicture();
  ask();
}

// What is sent is what is drawn. TensorFlow's decoder does not turn a picture as its EXIF says and knows four formats,
// so a picture that lies on its side, or of another format, is written anew by the browser first.
async function prepared(file) {
  const head = new DataView(await file.arrayBuffer());
  const format = formatOf(head);
  const turned = (format === "jpeg" && orientationOfJpeg(head) !== 1) || (format === "png" && hasExif(head));
  const bitmap = await createImageBitmap(file);
  const picture = { name: file.name || "picture", blob: file, rewritten: "", width: bitmap.width, height: bitmap.height };
  if (turned || !format) {
    const type = format === "jpeg" ? "image/jpeg" : "image/png";
    picture.blob = await toBlob(canvasOf(bitmap, bitmap.width, bitmap.height), type);
    picture.rewritten = turned ? "turned upright" : "written as PNG";
    picture.name = `${picture.name.replace(/\.[^.]*$/, "")}-${turned ? "upright" : "as"}.${type === "image/png" ? "png" : "jpg"}`;
  }
  bitmap.close();
  picture.url = URL.createObjectURL(picture.blob);
  return picture;
}

function formatOf(view) {
  const magics = { jpeg: [0xff, 0xd8, 0xff], png: [0x89, 0x50, 0x4e, 0x47], gif: [0x47, 0x49, 0x46, 0x38], bmp: [0x42, 0x4d] };
  const fits = ([, bytes]) => bytes.length <= view.byteLength && bytes.every((byte, at) => view.getUint8(at) === byte);
  return Object.entries(magics).find(fits)?.[0] ?? null;
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
    if (!(error instanceof RangeError)) throw error; // cut short: then nothing turns it
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

// ---- Asking ---------------------------------------------------------------------------------------------------------

async function ask() {
  state.asking?.abort();
  const { picture, about } = state;
  if (!picture || !about) return;
  say("problem", "");
  $("again").hidden = true;
  if (!about.signature) {
    Object.assign(state, { asking: null, found: null });
    const listed = Object.keys(about.all).sort().join(", ");
    say("problem", `This model has no signature that takes a picture alone and answers with detections (it has: ${listed}).`);
    waiting(null);
    return showFound();
  }
  const asking = (state.asking = new AbortController());
  const started = performance.now();
  const stop = waiting(started);
  try {
    const request = await written(picture, about.signature);
    asking.signal.throwIfAborted();
    showRequest(request, picture);
    const sent = performance.now();
    const options = { method: "POST", body: request.body, headers: { "Content-Type": "application/json" }, signal: asking.signal };
    const answer = await fetchJson(request.path, options);
    const took_s = (performance.now() - sent) / 1000;
    if (state.asking !== asking) return;
    state.found = { ...detections(answer.predictions[0], about.card.class_names, picture), took_s, version: about.card.version };
  } catch (error) {
    if (state.asking !== asking) return; // a newer question took over
    state.found = null;
    const told = error.name === "AbortError" ? "Cancelled." : error instanceof ServerError ? error.message : `The answer cannot be shown: ${error.message}`;
    say("problem", told);
    $("again").hidden = false;
  } finally {
    stop();
    if (state.asking === asking) {
      state.asking = null;
      waiting(null);
      showFound();
    }
  }
}

async function written(picture, signature) {
  const path = `${modelPath(state.model, state.pinned)}:predict`;
  const around = [`{"signature_name": ${JSON.stringify(signature.name)}, "instances": [`, "]}"];
  const one = signature.kind === "file" ? await fileAsJson(picture) : await pixelsAsJson(picture, signature);
  const body = around[0] + Array(signature.copies).fill(one.json).join(", ") + around[1];
  return { path, body, signature, note: one.note };
}

async function fileAsJson(picture) {
  const dataUrl = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("the picture's file cannot be read any more"));
    reader.readAsDataURL(picture.blob);
  });
  const note = picture.rewritten
    ? `The picture was ${picture.rewritten} before it was sent, since the model's decoder would not do that. Save is what was sent.`
    : "";
  return { json: `{"b64": "${dataUrl.slice(dataUrl.indexOf(",") + 1)}"}`, note };
}

async function pixelsAsJson(picture, signature) {
  const bitmap = await createImageBitmap(picture.blob);
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
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
  const note = `This model takes no picture files, so ${width} × ${height} pixels were sent as numbers. Save is that request.`;
  return { json: `[${rows.join(",")}]`, note };
}

// ---- The answer -----------------------------------------------------------------------------------------------------

function detections(answer, names, picture) {
  const total = answer.detection_scores.length;
  const count = Math.min(total, answer.num_detections ?? total);
  const all = [];
  for (let index = 0; index < count; index++) {
    const [score, box] = [answer.detection_scores[index], answer.detection_boxes[index]];
    if (score === null || box.includes(null)) continue; // not a number
    const id = Math.round(answer.detection_classes[index]);
    const mask = answer.detection_masks?.[index];
    const overPicture = mask && mask.length === picture.height && mask[0].length === picture.width;
    const points = answer.detection_keypoints?.[index] ?? [];
    const scores = answer.detection_keypoint_scores?.[index];
    const name = names[id] || answer.detection_class_names?.[index] || `class ${id}`;
    const keypoints = points
      .map(([y, x], point) => ({ y, x, score: scores?.[point] ?? 1 }))
      .filter((one) => one.score >= KEYPOINT_MIN_SCORE && one.y >= 0 && one.y <= 1 && one.x >= 0 && one.x <= 1);
    all.push({ id, name, score, box, mask, maskBox: overPicture ? [0, 0, 1, 1] : box, keypoints });
  }
  return { all: all.sort((a, b) => b.score - a.score) };
}

const threshold = () => Number($("threshold").value);
const goodEnough = () => state.found?.all.filter((one) => one.score > 0 && one.score >= threshold()) ?? [];
const visible = () => goodEnough().filter((one) => !state.hidden.has(one.id));

// Hues a golden ratio apart: classes whose numbers are near get colours that are far.
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

// (ymin, xmin, ymax, xmax), normalized -> the same in pixels of a size, cut at its edges.
function edges([ymin, xmin, ymax, xmax], width, height) {
  const cut = (value, size) => Math.min(Math.max(value * size, 0), size);
  const [top, bottom] = [cut(ymin, height), cut(ymax, height)].sort((a, b) => a - b);
  const [left, right] = [cut(xmin, width), cut(xmax, width)].sort((a, b) => a - b);
  return { top, left, bottom, right };
}

// ---- What is seen ---------------------------------------------------------------------------------------------------

function say(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

function element(name, properties = {}, children = []) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function svg(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function showModels() {
  if (!state.models.includes(state.model)) choose(state.models[0] ?? null);
  $("model").replaceChildren(...state.models.map((name) => element("option", { value: name, textContent: name })));
  $("model").value = state.model;
  $("model-choice").hidden = state.models.length < 2;
}

function choose(model) {
  state.asking?.abort();
  state.asking = null;
  waiting(null);
  Object.assign(state, { model, versions: [], pinned: null, about: null, found: null, alone: null, hidden: new Set() });
  say("title", model ?? "unfreeze");
  document.title = model ? `${model} · unfreeze` : "unfreeze";
  showVersions();
  showFound();
}

function showVersions() {
  const [latest, options] = [newest(), []];
  options.push(element("option", { value: "", textContent: latest === null ? "none loaded" : `newest (${latest})` }));
  for (const { version, state: told, status } of state.versions) {
    const failed = status?.error_code !== "OK" && status?.error_message;
    if (told === "AVAILABLE") options.push(element("option", { value: version, textContent: version }));
    else if (failed) options.push(element("option", { value: version, textContent: `${version} (failed)`, title: status.error_message, disabled: true }));
    else if (told !== "END") options.push(element("option", { value: version, textContent: `${version} (${told.toLowerCase()})`, disabled: true }));
  }
  $("version").replaceChildren(...options);
  $("version").value = state.pinned ?? "";
}

function showPicture() {
  $("empty").hidden = true;
  $("shown").hidden = false;
  $("picture").src = state.picture.url;
  $("picture").alt = `The picture ${state.picture.name}`;
  const { name, width, height, rewritten } = state.picture;
  // A small picture is shown larger, a large one as large as the window allows.
  $("frame").style.width = `min(100%, ${Math.max(width, 480)}px, ${(68 * width) / height}vh)`;
  say("caption", `${name}, ${width} × ${height}${rewritten ? `, ${rewritten}` : ""}`);
  say("file-label", "Choose another");
  $("request").hidden = true;
  showFound();
}

// Over the picture, while the model thinks; the seconds appear only where one has to wait.
function waiting(started) {
  $("busy").hidden = started === null;
  $("shown").setAttribute("aria-busy", String(started !== null));
  if (started === null) return () => {};
  const tick = () => {
    const seconds = Math.floor((performance.now() - started) / 1000);
    say("busy-text", seconds ? `Asking … ${seconds} s` : "Asking …");
  };
  tick();
  const timer = setInterval(tick, 1000);
  return () => clearInterval(timer);
}

function showFound() {
  showClasses();
  showRows();
  showSummary();
  draw();
}

function showSummary() {
  if (!state.found) return say("summary", "");
  const counts = new Map();
  for (const one of visible()) counts.set(one.name, (counts.get(one.name) ?? 0) + 1);
  const listed = [...counts].map(([name, count]) => (count > 1 ? `${count} × ${name}` : name)).join(", ");
  const took = state.found.took_s;
  say("summary", `${listed || "Nothing"}, at ${percent(threshold())} or more. Version ${state.found.version} took ${took < 10 ? took.toFixed(2) : took.toFixed(1)} s, there and back.`);
}

function showClasses() {
  const counts = new Map();
  for (const one of goodEnough()) counts.set(one.id, { name: one.name, count: (counts.get(one.id)?.count ?? 0) + 1 });
  // A class that is filtered out stays on the list, so that it can come back.
  for (const one of state.found?.all ?? [])
    if (state.hidden.has(one.id) && !counts.has(one.id)) counts.set(one.id, { name: one.name, count: 0 });
  const wanted = [...counts].sort((a, b) => a[0] - b[0]);
  const focused = document.activeElement?.dataset?.classId;
  $("class-list").replaceChildren(...wanted.map(([id, { name, count }]) => chip(id, name, count)));
  if (focused !== undefined) $("class-list").querySelector(`[data-class-id="${focused}"]`)?.focus();
  $("classes").hidden = wanted.length === 0;
}

function chip(id, name, count) {
  const box = element("input", { type: "checkbox", checked: !state.hidden.has(id) });
  box.dataset.classId = id;
  box.addEventListener("change", () => {
    state.hidden[box.checked ? "delete" : "add"](id);
    state.alone = null;
    showFound();
  });
  const dot = element("span", { className: "dot" });
  dot.style.background = css(colorOf(id));
  return element("label", { className: "chip" }, [box, dot, name, element("span", { className: "quiet", textContent: ` ${count}` })]);
}

function showRows() {
  const shown = visible();
  $("rows").replaceChildren(...shown.map(row));
  $("table-box").hidden = shown.length === 0;
  const why = !state.picture ? "Nothing asked yet." : !state.found ? "No answer yet." : "Nothing scores that much.";
  say("nothing", shown.length ? "" : why);
}

function row(one) {
  const { width, height } = state.picture;
  const { top, left, bottom, right } = edges(one.box, width, height);
  const dot = element("span", { className: "dot" });
  dot.style.background = css(colorOf(one.id));
  const button = element("button", { type: "button", className: "name" }, [dot, one.name]);
  button.setAttribute("aria-pressed", String(state.alone === one));
  button.addEventListener("click", () => {
    state.alone = state.alone === one ? null : one;
    for (const other of $("rows").querySelectorAll("button")) other.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-pressed", String(state.alone === one));
    draw();
  });
  const place = `${Math.round(left)}, ${Math.round(top)}, ${Math.round(right - left)} × ${Math.round(bottom - top)}`;
  const head = element("th", { scope: "row" }, [button]);
  return element("tr", {}, [head, element("td", { textContent: percent(one.score) }), element("td", { textContent: place })]);
}

function showRequest({ path, body, signature, note }, picture) {
  const address = quoted(new URL(path, document.baseURI).href);
  const isFile = signature.kind === "file";
  const [start, end] = [`{"signature_name": ${JSON.stringify(signature.name)}, "instances": [{"b64": "`, `"}]}`];
  const safeName = picture.name.startsWith("-") ? `./${picture.name}` : picture.name;
  const typed =
    isFile && signature.copies === 1
      ? `(printf %s ${quoted(start)}; base64 < ${quoted(safeName)} | tr -d '\\n'; echo ${quoted(end)}) |\n  curl -d @- ${address}`
      : `curl -d @request.json ${address}`;
  say("curl", typed);
  const saved = isFile && signature.copies === 1 ? picture.rewritten && picture.blob : new Blob([body], { type: "application/json" });
  if ($("save").href) URL.revokeObjectURL($("save").href);
  $("save").hidden = !saved;
  if (saved) {
    $("save").href = URL.createObjectURL(saved);
    $("save").download = saved === picture.blob ? picture.name : "request.json";
    say("save", saved === picture.blob ? "Save what was sent" : "Save request.json");
  } else $("save").removeAttribute("href");
  say("request-note", note);
  say("copied", "");
  $("request").hidden = false;
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function showCard() {
  const { card, signature } = state.about;
  const from = card.export;
  const rows = [["Version", card.version]];
  if (from) {
    const what = [from.feature_extractor, from.model && `(${from.model})`].filter(Boolean).join(" ");
    rows.push(["What", [what || "frozen graph", from.num_classes && `${from.num_classes} classes`].filter(Boolean).join(", ")]);
    if (from.checkpoint) rows.push(["Checkpoint", checkpointText(from.checkpoint)], ...hashes(from.checkpoint.files));
    if (from.graph) rows.push(["Graph", from.graph.name], ["SHA-256", from.graph.sha256]);
    rows.push(["Exported", `${new Date(from.exported_at).toLocaleString()} by unfreeze ${from.unfreeze}, TensorFlow ${from.tensorflow}`]);
    rows.push(["Proof", from.verified ? "verified when it was exported" : "not verified"]);
  }
  const names = Object.keys(card.class_names).length;
  rows.push(["Class names", names ? `${names}, from its label map` : "none: exported without a label map"]);
  if (signature) rows.push(["Asked by", signature.name]);
  $("card").replaceChildren(...rows.flatMap(([term, text]) => [element("dt", { textContent: term }), element("dd", { textContent: text, className: term === "SHA-256" ? "hash" : "" })]));
  showChecks(from?.checks ?? []);
  const unknown = from ? [] : ["There is no export.json with this model, so nothing is known of where it comes from."];
  say("card-note", [...unknown, ...card.problems].join(" "));
}

const checkpointText = ({ name, step, format }) => `${name}${step === null ? "" : `, step ${step}`}, ${format}`;

// Of the weights: the file that tells two checkpoints apart.
function hashes(files) {
  const data = Object.entries(files ?? {}).filter(([name]) => !/\.(index|meta)$/.test(name));
  return data.slice(0, 1).map(([, { sha256 }]) => ["SHA-256", sha256]);
}

function showChecks(checks) {
  $("checks").hidden = checks.length === 0;
  const counts = new Map();
  for (const { status } of checks) counts.set(status, (counts.get(status) ?? 0) + 1);
  const told = [...counts].map(([status, count], at) => `${count} ${at ? "" : count > 1 ? "checks " : "check "}${status}`);
  say("checks-summary", `What was proved: ${told.join(", ")}`);
  $("check-list").replaceChildren(
    ...checks.map(({ name, status, detail }) =>
      element("li", { className: status }, [element("strong", { textContent: name }), ` ${status}: ${detail}`]),
    ),
  );
}

// ---- The drawing ----------------------------------------------------------------------------------------------------

function draw() {
  const [boxes, masks] = [$("boxes"), $("masks")];
  boxes.replaceChildren();
  masks.width = masks.height = 0;
  const { width, height } = $("picture").getBoundingClientRect();
  if (!state.found || !width) return;
  const worst_first = visible().filter((one) => !state.alone || one === state.alone).reverse();
  boxes.setAttribute("viewBox", `0 0 ${width} ${height}`);
  drawMasks(masks, worst_first, width, height);
  for (const one of worst_first) drawBox(boxes, one, width, height);
  const taken = [];
  for (const one of worst_first.slice().reverse()) drawLabel(boxes, one, width, height, taken);
}

function drawBox(boxes, one, width, height) {
  const { top, left, bottom, right } = edges(one.box, width, height);
  const place = { x: left, y: top, width: right - left, height: bottom - top, rx: 3, fill: "none" };
  boxes.append(
    svg("rect", { ...place, stroke: "rgba(0, 0, 0, 0.45)", "stroke-width": 4.5 }),
    svg("rect", { ...place, class: "box", stroke: css(colorOf(one.id)), "stroke-width": 2.5 }),
  );
  for (const { y, x } of one.keypoints)
    boxes.append(svg("circle", { class: "keypoint", cx: x * width, cy: y * height, r: 4, fill: css(colorOf(one.id)), stroke: "#fff", "stroke-width": 1.5 }));
}

// A name at its box, where it covers the least of the names of better ones: over it, under it, or inside.
function drawLabel(boxes, one, width, height, taken) {
  const color = colorOf(one.id);
  const text = svg("text", { class: "label", fill: legibleOn(color) });
  text.textContent = `${one.name} ${percent(one.score)}`;
  boxes.append(text);
  const [wide, high] = [Math.min(text.getComputedTextLength() + 10, width), 20];
  const { top, left, bottom, right } = edges(one.box, width, height);
  const corners = [top - high, bottom, top, bottom - high].flatMap((y) => [[left - 1, y], [right - wide + 1, y]]);
  const places = corners.map(([x, y]) => ({
    x: Math.max(0, Math.min(x, width - wide)), y: Math.max(0, Math.min(y, height - high)), wide, high,
  }));
  const covered = (place) => taken.reduce((sum, other) => sum + overlap(place, other), 0);
  const best = places.reduce((a, b) => (covered(b) < covered(a) ? b : a));
  taken.push(best);
  text.setAttribute("x", best.x + 5);
  text.setAttribute("y", best.y + 14.5);
  text.before(svg("rect", { x: best.x, y: best.y, width: wide, height: high, rx: 4, fill: css(color) }));
}

function overlap(a, b) {
  const across = Math.min(a.x + a.wide, b.x + b.wide) - Math.max(a.x, b.x);
  const down = Math.min(a.y + a.high, b.y + b.high) - Math.max(a.y, b.y);
  return Math.max(across, 0) * Math.max(down, 0);
}

function drawMasks(canvas, found, width, height) {
  if (!found.some((one) => one.mask)) return;
  Object.assign(canvas, { width: Math.round(width), height: Math.round(height) });
  const context = canvas.getContext("2d");
  for (const one of found) if (one.mask) drawMask(context, one, canvas.width, canvas.height);
}

// The model's small mask is stretched over its box by the canvas as smooth opacity, then made hard at the threshold.
function drawMask(context, one, width, height) {
  const [rows, columns] = [one.mask.length, one.mask[0].length];
  const small = new ImageData(columns, rows);
  one.mask.flat().forEach((value, at) => (small.data[4 * at + 3] = Math.round(255 * (value ?? 0))));
  const source = Object.assign(document.createElement("canvas"), { width: columns, height: rows });
  source.getContext("2d").putImageData(small, 0, 0);
  const layer = Object.assign(document.createElement("canvas"), { width, height });
  const drawing = layer.getContext("2d", { willReadFrequently: true });
  const [ymin, xmin, ymax, xmax] = one.maskBox;
  drawing.drawImage(source, xmin * width, ymin * height, (xmax - xmin) * width, (ymax - ymin) * height);
  const pixels = drawing.getImageData(0, 0, width, height);
  const color = colorOf(one.id);
  for (let at = 0; at < pixels.data.length; at += 4) {
    const inside = pixels.data[at + 3] > 255 * MASK_THRESHOLD;
    if (inside) pixels.data.set(color, at);
    pixels.data[at + 3] = inside ? 115 : 0;
  }
  drawing.putImageData(pixels, 0, 0);
  context.drawImage(layer, 0, 0);
}

// ---- What a person does ---------------------------------------------------------------------------------------------

for (const id of ["file", "camera"])
  $(id).addEventListener("change", (event) => {
    take(event.target.files[0]);
    event.target.value = ""; // the same file may be chosen again
  });
$("empty").addEventListener("click", () => $("file").click()); // a large button for a finger; the small one is named
$("again").addEventListener("click", ask);
$("cancel").addEventListener("click", () => {
  state.asking?.abort();
  $("again").hidden = false;
  $("again").focus();
});
$("threshold").addEventListener("input", () => {
  say("threshold-shown", percent(threshold()));
  $("threshold").setAttribute("aria-valuetext", percent(threshold()));
  state.alone = null;
  showFound();
});
$("model").addEventListener("change", () => {
  choose($("model").value);
  look().catch((error) => say("problem", error.message));
});
$("version").addEventListener("change", () => {
  state.pinned = $("version").value || null;
  meet().catch((error) => say("problem", error.message));
});
$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText($("curl").textContent);
    say("copied", "Copied.");
  } catch {
    // Without https on another machine there is no clipboard: what is selected can be copied by hand.
    getSelection().selectAllChildren($("curl"));
    say("copied", "Selected: copy it with Ctrl-C.");
  }
});
for (const name of ["dragenter", "dragover", "dragleave", "drop"])
  document.addEventListener(name, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    const leaving = name === "drop" || (name === "dragleave" && event.relatedTarget === null);
    $("drop").classList.toggle("over", !leaving);
    if (name === "drop") take(event.dataTransfer.files[0]);
  });
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) take(event.clipboardData.files[0]);
});
$("picture").addEventListener("load", draw);
new ResizeObserver(draw).observe($("picture"));
document.documentElement.classList.toggle("touch", navigator.maxTouchPoints > 0); // phones have a camera
poll();
