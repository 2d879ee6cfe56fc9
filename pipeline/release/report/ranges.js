// Files of the release, read in ranges. A server that knows no ranges answers with the whole file, which is then kept.

const BLOCK_BYTES = 1 << 16;
const MOST_WHOLE_BYTES = 1 << 28;

class NoFile extends Error {}

class RangedFile {
  #blocks = new Map();
  #whole = null;
  #size = null;

  constructor(path) {
    this.path = path;
    this.url = new URL(`../${path.split("/").map(encodeURIComponent).join("/")}`, document.baseURI);
  }

  // How many bytes it has.
  async size() {
    await this.#block(0);
    return this.#size;
  }

  // Its bytes from `start` up to `stop`; fewer where it ends.
  async bytes(start, stop) {
    const end = Math.min(stop, await this.size());
    if (this.#whole) return this.#whole.subarray(start, end);
    const first = Math.floor(start / BLOCK_BYTES);
    const count = Math.max(0, Math.ceil(end / BLOCK_BYTES) - first);
    const blocks = await Promise.all(Array.from({ length: count }, (_, number) => this.#block(first + number)));
    return joined(blocks).subarray(start - first * BLOCK_BYTES, end - first * BLOCK_BYTES);
  }

  // The whole file as text.
  async text() {
    return new TextDecoder().decode(await this.bytes(0, Infinity));
  }

  // The line that begins at byte `start`, with its line end; null at the end of the file.
  async line(start) {
    for (let length = 1024; ; length *= 4) {
      const bytes = await this.bytes(start, start + length);
      const end = bytes.indexOf(LINE_FEED);
      if (end >= 0) return bytes.subarray(0, end + 1);
      if (bytes.length < length) return null;
    }
  }

  // The lines from byte `start` on, parsed.
  async *lines(start) {
    for (let line; (line = await this.line(start)); start += line.length) yield parsed(line);
  }

  // The byte at which the first line begins for which `isBefore` does not hold; the lines are sorted by it.
  async findLine(isBefore) {
    const blocks = Math.ceil((await this.size()) / BLOCK_BYTES);
    const block = await lastBefore(blocks, async (number) => {
      const line = await this.line(await this.#lineIn(number));
      return line !== null && isBefore(parsed(line));
    });
    let start = await this.#lineIn(Math.max(block, 0));
    for (let line; (line = await this.line(start)) && isBefore(parsed(line)); start += line.length);
    return start;
  }

  // The byte at which the first line begins whose line end before it is in a block or later.
  async #lineIn(number) {
    if (number === 0) return 0;
    const before = await this.line(number * BLOCK_BYTES);
    return before === null ? this.size() : number * BLOCK_BYTES + before.length;
  }

  #block(number) {
    if (this.#whole) {
      return Promise.resolve(this.#whole.subarray(number * BLOCK_BYTES, (number + 1) * BLOCK_BYTES));
    }
    if (!this.#blocks.has(number)) {
      const block = this.#fetch(number * BLOCK_BYTES);
      this.#blocks.set(number, block);
      block.catch(() => this.#blocks.delete(number));
    }
    return this.#blocks.get(number);
  }

  async #fetch(start) {
    const answer = await fetch(this.url, { headers: { Range: `bytes=${start}-${start + BLOCK_BYTES - 1}` } });
    if (answer.status === 404) throw new NoFile(`${this.path} is not on this server.`);
    if (answer.status === 416) {
      this.#size ??= 0;
      return new Uint8Array(0);
    }
    if (!answer.ok) throw new Error(`The server answered ${answer.status} for ${this.path}.`);
    if (answer.status === 206) {
      this.#size = sizeOf(answer, start);
      return new Uint8Array(await answer.arrayBuffer());
    }
    if (Number(answer.headers.get("Content-Length")) > MOST_WHOLE_BYTES) {
      await answer.body.cancel();
      throw new Error(`${this.path} is large and this server gives no ranges of a file; another server does.`);
    }
    this.#whole = new Uint8Array(await answer.arrayBuffer());
    this.#size = this.#whole.length;
    return this.#whole.subarray(start, start + BLOCK_BYTES);
  }
}

const LINE_FEED = 10;
const opened = new Map();

// The file of this path, opened once.
function file(path) {
  if (!opened.has(path)) opened.set(path, new RangedFile(path));
  return opened.get(path);
}

async function json(path) {
  return JSON.parse(await file(path).text());
}

function parsed(line) {
  return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(line));
}

function sizeOf(answer, start) {
  const range = /^bytes (\d+)-\d+\/(\d+)$/.exec(answer.headers.get("Content-Range"));
  if (!range || Number(range[1]) !== start) throw new Error("The server answered with another range of the file.");
  return Number(range[2]);
}

function joined(blocks) {
  const whole = new Uint8Array(blocks.reduce((sum, block) => sum + block.length, 0));
  let place = 0;
  for (const block of blocks) {
    whole.set(block, place);
    place += block.length;
  }
  return whole;
}

// The largest of the numbers 0 to `count` - 1 for which `isBefore` holds, -1 if for none; it holds up to some number.
async function lastBefore(count, isBefore) {
  let low = -1;
  let high = count;
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (await isBefore(middle)) low = middle;
    else high = middle;
  }
  return low;
}
