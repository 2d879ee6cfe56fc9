// What the release holds, as the explorer needs it: models, rows, documents, losses, logs and samples of text.

const facts = JSON.parse(document.getElementById("explorer").dataset.facts);
const IDS_PER_SHARD = 2 ** 24;
const ID_BYTES = facts.vocabulary <= 65536 ? 2 : 3;
const PLACE_BYTES = 16;
const LOSS_UNITS = 1000;
const MOST_SCANNED_BYTES = 1 << 24;
const models = new Map();

// What the manifest of a model says of its training.
async function modelNamed(name) {
  if (!models.has(name)) {
    const manifest = await json(`manifests/models/${name}.json`);
    const { data, parent, schedule, digest_every } = manifest.parameters;
    models.set(name, {
      name,
      seed: data.seed,
      globalBatch: data.global_batch,
      begunAt: parent?.step ?? 0,
      begunWith: parent?.first_sample ?? 0,
      steps: schedule.steps,
      digestEvery: digest_every,
      numerics: manifest.numerics.class,
      states: manifest.checkpoints.toSorted((a, b) => a.step - b.step),
    });
  }
  return models.get(name);
}

// The numbers of the rows that the update to state `step` read, in reading order.
function rowsOfStep(model, step) {
  const first = model.begunWith + (step - 1 - model.begunAt) * model.globalBatch;
  return Array.from({ length: model.globalBatch }, (_, sample) => rowOfSample(first + sample, facts.rows, model.seed));
}

// The steps at which a model read any of these rows, ascending.
function stepsOfRows(model, rows) {
  const stop = model.begunWith + (model.steps - model.begunAt) * model.globalBatch;
  const samples = rows.flatMap((row) => samplesOfRow(row, facts.rows, model.seed, model.begunWith, stop));
  const steps = samples.map((sample) => model.begunAt + 1 + Math.floor((sample - model.begunWith) / model.globalBatch));
  return [...new Set(steps)].sort((a, b) => a - b);
}

// The token ids of a row.
async function idsOfRow(row) {
  const perShard = Math.floor(IDS_PER_SHARD / facts.width);
  const name = String(Math.floor(row / perShard)).padStart(6, "0");
  const start = (row % perShard) * facts.width * ID_BYTES;
  const bytes = await file(`data/search/${name}.ids`).bytes(start, start + facts.width * ID_BYTES);
  return Array.from({ length: facts.width }, (_, place) => {
    const id = bytes.subarray(place * ID_BYTES, (place + 1) * ID_BYTES);
    return id.reduce((sum, byte) => sum * 256 + byte, 0);
  });
}

// The pieces of documents in a row: each document, and from where to where its ids are in the row.
async function piecesOfRow(row) {
  const places = file("report/data/documents.places");
  const count = (await places.size()) / PLACE_BYTES;
  const [begin, end] = [row * facts.width, (row + 1) * facts.width];
  const pieces = [];
  let number = await lastBefore(count, async (other) => (await placeOf(places, other))[0] <= begin);
  for (; number < count; number++) {
    const [start, line] = await placeOf(places, number);
    if (start >= end) break;
    const document = parsed(await file("report/data/documents.jsonl").line(line));
    pieces.push({ document, start: Math.max(start - begin, 0), stop: Math.min(start + document.num_tokens, end) - begin });
  }
  return pieces;
}

async function placeOf(places, number) {
  const bytes = await places.bytes(number * PLACE_BYTES, (number + 1) * PLACE_BYTES);
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  return [Number(view.getBigUint64(0, true)), Number(view.getBigUint64(8, true))];
}

// The rows with a token of a document; rows that the last documents would have filled are not there.
function rowsOfDocument(document) {
  const end = document.first_row * facts.width + document.offset + document.num_tokens - 1;
  const stop = Math.min(Math.floor(end / facts.width) + 1, facts.rows);
  return Array.from({ length: Math.max(0, stop - document.first_row) }, (_, number) => document.first_row + number);
}

// The first `most` documents whose id begins with a text; where none does, those whose id contains each word of it, if
// the table is small enough to be read as a whole. `whole` says whether it was.
async function documentsLike(text, most) {
  const documents = file("report/data/documents.jsonl");
  const found = [];
  for await (const document of documents.lines(await documents.findLine(({ id }) => isLess(id, text)))) {
    if (!document.id.startsWith(text) || found.length === most) break;
    found.push(document);
  }
  const isSmall = (await documents.size()) <= MOST_SCANNED_BYTES;
  if (found.length || !isSmall) return { found, whole: false };
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  for (const line of (await documents.text()).split("\n")) {
    if (words.length && words.every((word) => line.toLowerCase().includes(word))) {
      const document = JSON.parse(line);
      if (words.every((word) => document.id.toLowerCase().includes(word))) found.push(document);
      if (found.length === most) break;
    }
  }
  return { found, whole: true };
}

// All copies of a document; a mixture may repeat it.
async function copiesOf(id) {
  const documents = file("report/data/documents.jsonl");
  const copies = [];
  for await (const document of documents.lines(await documents.findLine((other) => isLess(other.id, id)))) {
    if (document.id !== id) break;
    copies.push(document);
  }
  return copies;
}

// Whether a text comes before another one by code points; `<` compares UTF-16, in which some are in another order.
function isLess(text, other) {
  const [left, right] = [Array.from(text), Array.from(other)];
  const place = left.findIndex((character, number) => character !== right[number]);
  if (place < 0) return left.length < right.length;
  return place < right.length && left[place].codePointAt(0) < right[place].codePointAt(0);
}

// The losses of the targets of a sampled row in nats, one array for each stored checkpoint; null if it is not sampled.
async function lossesOfRow(model, row) {
  const context = facts.width - 1;
  const recordBytes = 8 + 2 * context * model.states.length;
  const losses = file(`report/data/${model.name}.losses`);
  const count = (await losses.size()) / recordBytes;
  const number = await lastBefore(count, async (other) => (await rowOfRecord(losses, other * recordBytes)) <= row);
  if (number < 0 || (await rowOfRecord(losses, number * recordBytes)) !== row) return null;
  const bytes = await losses.bytes(number * recordBytes + 8, (number + 1) * recordBytes);
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  return model.states.map((_, state) =>
    Float64Array.from({ length: context }, (_, target) => view.getUint16(2 * (state * context + target), true) / LOSS_UNITS),
  );
}

async function rowOfRecord(losses, start) {
  const bytes = await losses.bytes(start, start + 8);
  return Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
}

// The line of the log about the update to state `step`.
async function logEntry(model, step) {
  const log = file(`runs/${model.name}/log.jsonl`);
  const line = await log.line(await log.findLine((entry) => entry.step < step));
  return parsed(line);
}

// What a model wrote at a stored checkpoint.
async function samplesAt(model, step) {
  const samples = file(`results/${model.name}/samples.jsonl`);
  const found = [];
  for await (const sample of samples.lines(await samples.findLine((other) => other.step < step))) {
    if (sample.step !== step) break;
    found.push(sample);
  }
  return found;
}

// The bytes of each token, and the names of the special ones, which have none.
async function readVocabulary() {
  const tokenizer = await json("data/tokenizer/tokenizer.json");
  const tokens = [];
  const printable = (byte) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  const others = Array.from({ length: 256 }, (_, byte) => byte).filter((byte) => !printable(byte));
  const byteOf = (character) => (character < 256 ? character : others[character - 256]);
  for (const [text, id] of Object.entries(tokenizer.model.vocab)) {
    tokens[id] = { bytes: Uint8Array.from(text, (character) => byteOf(character.codePointAt(0))) };
  }
  for (const { id, content, special } of tokenizer.added_tokens) {
    tokens[id] = special ? { name: content } : { bytes: new TextEncoder().encode(content) };
  }
  return tokens;
}

let vocabularyRead = null;

function vocabulary() {
  vocabularyRead ??= readVocabulary();
  return vocabularyRead;
}

// The text of each id of a piece. A character that several tokens make is in the last of them; the others have none.
function textsOf(ids, tokens) {
  const decoder = new TextDecoder();
  const texts = ids.map((id) => {
    const { name, bytes } = tokens[id];
    return name ? decoder.decode() + name : decoder.decode(bytes, { stream: true });
  });
  const rest = decoder.decode();
  if (rest) texts[texts.length - 1] += rest;
  return texts;
}

// What `everystep serve` says of the release: its address, and the stretches that receipts vouch for; null elsewhere.
async function readServed() {
  if (!["localhost", "127.0.0.1", "[::1]"].includes(location.hostname)) return null;
  const answer = await fetch(new URL("../served.json", document.baseURI));
  return answer.ok ? answer.json() : null;
}

let servedRead = null;

function servedBy() {
  servedRead ??= readServed();
  return servedRead;
}
