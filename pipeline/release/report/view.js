// The explorer on the page. Its state is the hash of the address, so that a link shows the same view. Texts of a
// release are untrusted: they only ever become text nodes.

const LEVELS = 8;
const FIRST_ROWS = 4;
const MORE_ROWS = 16;
const RESULTS = 20;
const STEPS_LISTED = 60;
const at = (name) => document.getElementById(`explorer-${name}`);
let drawing = 0;

// An element with these properties and children; strings become text.
function element(tag, properties = {}, ...children) {
  const { data, label, ...others } = properties;
  const made = Object.assign(document.createElement(tag), others);
  Object.assign(made.dataset, data);
  if (label) made.setAttribute("aria-label", label);
  made.append(...children);
  return made;
}

const number = (value) => value.toLocaleString("en");
const nats = (loss) => `${loss.toFixed(3)} nats`;
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

// ---- State: `#model=M&step=N&document=ID`

function readState() {
  const hash = new URLSearchParams(location.hash.slice(1));
  return { model: hash.get("model"), step: Number(hash.get("step")), document: hash.get("document") };
}

function addressOf(state) {
  const hash = new URLSearchParams({ model: state.model, step: state.step });
  if (state.document) hash.set("document", state.document);
  return `#${hash}`;
}

function go(change) {
  location.hash = addressOf({ ...shown, ...change });
}

let shown = {};

// Show what the hash says, and what it does not say as it was.
async function show() {
  const wanted = readState();
  if (shown.model && !wanted.model && !wanted.document) return; // an anchor of the page
  const ticket = ++drawing;
  const isCurrent = () => ticket === drawing;
  try {
    const model = await modelNamed(facts.models.includes(wanted.model) ? wanted.model : facts.models[0]);
    const step = stepWithin(model, wanted.step);
    if (!isCurrent()) return;
    const before = shown;
    shown = { model: model.name, step, document: wanted.document };
    setControls(model, step);
    const parts = [];
    if (before.model !== model.name || before.step !== step) {
      say(`Reading step ${number(step)} of ${model.name} …`);
      parts.push(drawStep(model, step, isCurrent));
    }
    if (wanted.document && before.document !== wanted.document) parts.push(drawDocument(wanted.document, isCurrent));
    await Promise.all(parts);
    if (before.model && isCurrent() && before.document !== wanted.document) at("document").querySelector("h4")?.focus();
  } catch (error) {
    shown = {};
    if (isCurrent()) say(`Not shown: ${error.message}`);
  }
}

// The step that was asked for, or the last one.
function stepWithin(model, step) {
  return Number.isInteger(step) && step > model.begunAt && step <= model.steps ? step : model.steps;
}

function say(text) {
  at("status").textContent = text;
}

// ---- Controls

function setControls(model, step) {
  at("model").value = model.name;
  for (const name of ["step", "slider"]) {
    Object.assign(at(name), { min: model.begunAt + 1, max: model.steps, value: step });
  }
  at("before").disabled = step === model.begunAt + 1;
  at("after").disabled = step === model.steps;
  const stored = model.states.filter((state) => state.step > model.begunAt);
  at("checkpoints").replaceChildren(
    ...stored.map((state) => {
      const link = element("a", { href: addressOf({ ...shown, step: state.step }) }, number(state.step));
      if (state.step === step) link.setAttribute("aria-current", "step");
      return element("li", {}, link);
    }),
  );
}

function listen() {
  at("model").addEventListener("change", (event) => go({ model: event.target.value }));
  at("slider").addEventListener("input", (event) => (at("step").value = event.target.value));
  for (const name of ["step", "slider"]) {
    at(name).addEventListener("change", (event) => go({ step: Number(event.target.value) }));
  }
  at("before").addEventListener("click", () => go({ step: shown.step - 1 }));
  at("after").addEventListener("click", () => go({ step: shown.step + 1 }));
  at("find").addEventListener("submit", (event) => {
    event.preventDefault();
    drawResults(at("text").value.trim());
  });
  window.addEventListener("hashchange", show);
}

// ---- A step

async function drawStep(model, step, isCurrent) {
  const [entry, samples, served, batch] = await Promise.all([
    logEntry(model, step),
    drawnSamples(model, step),
    servedBy(),
    drawnBatch(model, step),
  ]);
  if (!isCurrent()) return;
  at("about").replaceChildren(...aboutStep(model, entry));
  at("samples").replaceChildren(...samples);
  at("verdict").replaceChildren(...verdict(model, step, entry, served));
  at("batch").replaceChildren(...batch);
  markDocument();
  say(`Step ${number(step)} of ${number(model.steps)} of ${model.name} read ${plural(model.globalBatch, "row")}.`);
}

function aboutStep(model, entry) {
  const values = [
    ["Tokens read so far", number(entry.tokens)],
    ["Loss of the batch", nats(entry.loss)],
    ["Learning rate", entry.learning_rate.toPrecision(3)],
    ["Gradient norm", entry.gradient_norm.toPrecision(3)],
  ];
  return values.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)));
}

// ---- The batch

async function drawnBatch(model, step) {
  const rows = rowsOfStep(model, step);
  const list = element("div");
  const shade = shadeChoice(model, step);
  const more = element("button", { type: "button" });
  let drawn = 0;
  const draw = async (count) => {
    const next = rows.slice(drawn, drawn + count);
    const articles = await Promise.all(next.map((row, place) => drawnRow(model, row, drawn + place, rows.length, shade)));
    list.append(...articles);
    drawn += next.length;
    more.hidden = drawn === rows.length;
    more.textContent = `Show ${number(Math.min(MORE_ROWS, rows.length - drawn))} more of ${number(rows.length)} rows`;
  };
  more.addEventListener("click", () => draw(MORE_ROWS).then(markDocument));
  await draw(FIRST_ROWS);
  const hasLosses = list.querySelector("[data-level]") !== null;
  const about = hasLosses ? [shade.label, legend(), shade.readout] : [withoutLosses(model)];
  return [...about, list, more];
}

function withoutLosses(model) {
  const steps = model.states.filter((state) => state.step > model.begunAt).map((state) => number(state.step));
  return element(
    "p",
    { className: "explorer-note" },
    "The rows of this step are shown without losses. The release has the loss of each token for rows of the steps ",
    `that led to its stored checkpoints: ${steps.join(", ")}.`,
  );
}

// At which stored checkpoint the losses are shown: that of the step, if it is stored, else the one before it.
function shadeChoice(model, step) {
  const select = element("select", { id: "explorer-shade" });
  const own = model.states.findLastIndex((state) => state.step <= step);
  select.append(
    ...model.states.map((state, place) => {
      const when = state.step === step ? ", just after it read them" : "";
      return element("option", { value: place, selected: place === own }, `step ${number(state.step)}${when}`);
    }),
  );
  const label = element("label", { className: "explorer-shade" }, "Loss of the model at ", select);
  const readout = element("output", { className: "explorer-readout" }, "Point at a token, or go from token to token with the arrow keys.");
  readout.setAttribute("aria-live", "polite");
  const tell = (text, losses, target) => {
    const here = losses[Number(select.value)][target];
    const all = losses.map((values, place) => `${number(model.states[place].step)}: ${values[target].toFixed(2)}`);
    readout.replaceChildren(
      element("code", {}, text),
      ` ${nats(here)}, probability ${percent(Math.exp(-here))}. `,
      element("small", {}, `At each checkpoint, step and loss: ${all.join(" · ")}`),
    );
  };
  return { select, label, readout, tell };
}

function percent(share) {
  return share < 0.0001 ? "below 0.01 %" : `${(100 * share).toPrecision(3)} %`;
}

// The shades: eight equal steps up to the loss of a guess that takes every token as equally probable.
function legend() {
  const guess = Math.log(facts.vocabulary);
  const swatches = Array.from({ length: LEVELS }, (_, level) =>
    element("li", { data: { level } }, ((level * guess) / LEVELS).toFixed(1)),
  );
  return element(
    "div",
    { className: "explorer-legend" },
    element("span", {}, "Loss of a token, in nats, from: "),
    element("ol", {}, ...swatches),
    element("span", {}, ` ${guess.toFixed(1)} is a blind guess among ${number(facts.vocabulary)} tokens`),
  );
}

function levelOf(loss) {
  return Math.min(LEVELS - 1, Math.floor((loss * LEVELS) / Math.log(facts.vocabulary)));
}

async function drawnRow(model, row, place, count, shade) {
  const [ids, pieces, losses, tokens] = await Promise.all([
    idsOfRow(row),
    piecesOfRow(row),
    lossesIfAny(model, row),
    vocabulary(),
  ]);
  const title = `Row ${number(row)}`;
  const drawn = pieces.map((piece) => drawnPiece(piece, textsOf(ids.slice(piece.start, piece.stop), tokens), tokens, ids));
  const text = element("div", { className: "explorer-text" }, ...drawn);
  const article = element(
    "article",
    { className: "explorer-row" },
    element("h4", {}, title, element("small", {}, ` ${number(place + 1)} of ${number(count)}${losses ? "" : ", without losses"}`)),
    text,
  );
  if (losses) shadeRow(text, losses, shade, title);
  return article;
}

async function lossesIfAny(model, row) {
  try {
    return await lossesOfRow(model, row);
  } catch (error) {
    if (error instanceof NoFile) return null;
    throw error;
  }
}

function drawnPiece(piece, texts, tokens, ids) {
  const { document: { id, license, forgotten }, start, stop } = piece;
  const link = element("a", { href: addressOf({ ...shown, document: id }) }, id);
  const head = element("p", { className: "explorer-piece" }, link);
  head.append(
    element("span", {}, id.split("/")[0]),
    element("span", {}, license),
    element("span", {}, `ids ${start} to ${stop - 1}`),
    element("span", { className: "explorer-mean" }),
  );
  if (forgotten) head.append(element("strong", {}, "forgotten: filler is in its place"));
  const spans = texts.map((text, place) => {
    const isSpecial = Boolean(tokens[ids[start + place]].name);
    return element("span", { data: { place: start + place }, className: isSpecial ? "explorer-special" : "" }, text);
  });
  return element("div", {}, head, element("div", { className: "explorer-tokens" }, ...spans));
}

// Mark the pieces of the document that was found.
function markDocument() {
  for (const head of document.querySelectorAll(".explorer-piece")) {
    head.classList.toggle("explorer-found", head.firstChild.textContent === shown.document);
  }
}

// Shade the tokens of a row, and say of each what its loss is: where a pointer or the arrow keys are.
function shadeRow(text, losses, shade, title) {
  const spans = [...text.querySelectorAll("[data-place]")];
  const paint = () => {
    const values = losses[Number(shade.select.value)];
    for (const span of spans) {
      const target = Number(span.dataset.place) - 1;
      if (target >= 0) span.dataset.level = levelOf(values[target]);
    }
    for (const section of text.children) {
      const targets = [...section.querySelectorAll("[data-level]")].map((span) => values[Number(span.dataset.place) - 1]);
      if (targets.length) section.querySelector(".explorer-mean").textContent = `mean loss ${nats(mean(targets))}`;
    }
  };
  const choose = (span) => {
    if (!span) return;
    text.querySelector(".explorer-chosen")?.classList.remove("explorer-chosen");
    span.classList.add("explorer-chosen");
    const target = Number(span.dataset.place) - 1;
    if (target >= 0) shade.tell(span.textContent || "part of a character", losses, target);
  };
  const moved = { ArrowRight: (place) => place + 1, ArrowLeft: (place) => place - 1, Home: () => 0, End: () => Infinity };
  text.tabIndex = 0;
  text.setAttribute("role", "group");
  text.setAttribute("aria-label", `${title}: the arrow keys move from token to token`);
  text.addEventListener("keydown", (event) => {
    if (!(event.key in moved) || event.target !== text) return;
    event.preventDefault();
    const here = spans.findIndex((span) => span.classList.contains("explorer-chosen"));
    choose(spans[Math.min(Math.max(moved[event.key](here), 0), spans.length - 1)]);
  });
  text.addEventListener("pointerover", (event) => choose(event.target.closest("[data-place]")));
  text.addEventListener("click", (event) => choose(event.target.closest("[data-place]")));
  shade.select.addEventListener("change", paint);
  paint();
}

// ---- What the model writes

async function drawnSamples(model, step) {
  const state = model.states.findLast((other) => other.step <= step) ?? model.states[0];
  let samples = [];
  try {
    samples = await samplesAt(model, state.step);
  } catch (error) {
    if (!(error instanceof NoFile)) throw error;
  }
  if (!samples.length) return [element("p", {}, "The release has no samples of text.")];
  const when = state.step === step ? `At step ${number(step)}` : `At step ${number(state.step)}, the last checkpoint with samples`;
  return [
    element("p", {}, `${when}, ${model.name} continues these prompts as follows. The prompts are set off.`),
    ...samples.map(({ prompt, text }) => element("blockquote", {}, element("mark", {}, prompt), text)),
  ];
}

// ---- What vouches for the step

function verdict(model, step, entry, served) {
  const stored = model.states.find((state) => state.step === step);
  const digest = stored?.weights_digest ?? entry.weights_digest;
  const start = model.states.findLast((state) => state.step < step)?.step ?? model.begunAt;
  const stop = model.steps < step || digest ? step : nextDigest(model, step);
  const address = served?.address ?? addressOfRelease();
  const command = `everystep replay ${quoted(address)} --model ${model.name} --from ${start} --to ${stop}`;
  const published = digest
    ? ["The release says that the weights after this step have the digest ", element("code", {}, digest), ". "]
    : [`The release gives no digest of the weights after this step; the next is that of step ${number(stop)}. `];
  return [
    element(
      "p",
      {},
      ...published,
      stored ? "Their bytes are in the release." : "Their bytes are not in the release: a replay computes them.",
    ),
    element("p", {}, `This page has computed nothing of it. This command trains from step ${number(start)} again and compares:`),
    element("pre", {}, element("code", {}, command)),
    element("p", {}, `It needs torch and a processor of the class ${model.numerics}.`),
    ...vouched(model, step, served, address),
  ];
}

function nextDigest(model, step) {
  const due = Math.ceil(step / model.digestEvery) * model.digestEvery;
  const stored = model.states.find((state) => state.step >= step)?.step ?? Infinity;
  return Math.min(due <= model.steps ? due : Infinity, stored);
}

// What receipts beside the release say of the stretch of this step, as the program that serves it has checked them.
function vouched(model, step, served, address) {
  const command = element("code", {}, `everystep receipts ${quoted(address)}`);
  if (!served?.receipts) {
    return [element("p", {}, "Whether somebody has signed a receipt of such a replay, ", command, " says.")];
  }
  const stretch = served.receipts.stretches.find((one) => one.model === model.name && one.start < step && step <= one.stop);
  const where = stretch ? `steps ${number(stretch.start)} to ${number(stretch.stop)}` : `step ${number(step)}`;
  const lines = [
    ...(stretch?.same ?? []).map((key) => ["came out the same", key]),
    ...(stretch?.differs ?? []).map((key) => ["did not come out the same", key]),
  ];
  const faults = served.receipts.faults.map((fault) => element("p", {}, `Not counted: ${fault}`));
  if (!lines.length) return [element("p", {}, `No receipt beside the release is about ${where}.`), ...faults];
  const items = lines.map(([what, key]) =>
    element("li", {}, `The owner of the key ${key.slice(0, 16)}… signed that ${where} ${what}.`),
  );
  return [element("ul", {}, ...items), element("p", {}, "That is their word; ", command, " says more."), ...faults];
}

// The address of the release that this page is in.
function addressOfRelease() {
  return new URL("..", document.baseURI).href.replace(/\/$/, "");
}

function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`;
}

// ---- Documents

async function drawResults(text) {
  at("results").replaceChildren();
  if (!text) return;
  at("found").textContent = "Searching …";
  try {
    const { found, whole } = await documentsLike(text, RESULTS + 1);
    const ids = [...new Set(found.map(({ id }) => id))].slice(0, RESULTS);
    const items = ids.map((id) => element("li", {}, element("a", { href: addressOf({ ...shown, document: id }) }, id)));
    at("results").replaceChildren(...items);
    const kind = whole ? "has these words in it" : "begins so";
    const some = found.length > RESULTS ? `The first ${RESULTS} training documents` : plural(ids.length, "training document");
    at("found").textContent = ids.length ? `${some} whose id ${kind}:` : nothingFound(whole);
  } catch (error) {
    at("found").textContent = `Not searched: ${error.message}`;
  }
}

function nothingFound(whole) {
  const where = whole ? "has these words in it" : "begins so";
  return `No id of a training document ${where}. What was removed or held out, everystep trace --document tells.`;
}

async function drawDocument(id, isCurrent) {
  const [copies, all] = await Promise.all([copiesOf(id), Promise.all(facts.models.map(modelNamed))]);
  const drawn = copies.length ? documentFacts(id, copies, all) : [element("p", {}, `${id}: ${nothingFound(false)}`)];
  if (!isCurrent()) return;
  at("document").replaceChildren(...drawn);
  markDocument();
}

function documentFacts(id, copies, all) {
  const rows = copies.flatMap(rowsOfDocument);
  const isForgotten = copies.some(({ forgotten }) => forgotten);
  const tokens = copies.reduce((sum, copy) => sum + copy.num_tokens, 0);
  const about = `${copies[0].license}, ${plural(tokens, "token")} in ${plural(rows.length, "row")}`;
  const items = all.map((model) => {
    const steps = isForgotten ? [] : stepsOfRows(model, rows);
    const first = model.states.find((state) => steps.length && state.step >= steps[0]);
    return element("li", {}, element("strong", {}, model.name), " ", ...readAt(model, steps, first, id));
  });
  const why = isForgotten ? "It was forgotten: there is filler in its place." : "";
  const none = rows.length ? why : "It was in the last, incomplete row, which is dropped.";
  return [
    element("h4", { tabIndex: -1 }, id),
    element("p", {}, `${about}. ${none}`),
    element("ul", {}, ...items),
  ];
}

function readAt(model, steps, first, id) {
  const own = model.begunAt ? ` of its own steps, those after ${number(model.begunAt)}` : "";
  if (!steps.length) return [`read it at no step${own}.`];
  const links = steps.slice(0, STEPS_LISTED).flatMap((step, place) => [
    place ? ", " : "",
    element("a", { href: addressOf({ model: model.name, step, document: id }) }, number(step)),
  ]);
  const rest = steps.length > STEPS_LISTED ? ` and ${number(steps.length - STEPS_LISTED)} more` : "";
  const after = first ? `first checkpoint after it: ${first.revision}` : "no checkpoint after it";
  return [`read it at ${steps.length === 1 ? "step" : "steps"} `, ...links, `${rest}; ${after}`];
}

// ---- Start

if (location.protocol.startsWith("http")) {
  at("off").hidden = true;
  at("on").hidden = false;
  listen();
  show();
}
