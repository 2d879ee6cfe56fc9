// The order of the rows (docs/formats.md, section 8): which rows a step reads, and which samples read a row.

const ROUNDS = 8;

// The row that sample `sample` is.
function rowOfSample(sample, numRows, seed) {
  const epoch = Math.floor(sample / numRows);
  return permute(sample - epoch * numRows, numRows, seed, epoch);
}

// The samples from `first` up to `stop` that read a row, ascending: one in each epoch.
function samplesOfRow(row, numRows, seed, first, stop) {
  const samples = [];
  for (let epoch = Math.floor(first / numRows); epoch * numRows < stop; epoch++) {
    const sample = epoch * numRows + unpermute(row, numRows, seed, epoch);
    if (first <= sample && sample < stop) samples.push(sample);
  }
  return samples;
}

function permute(position, numRows, seed, epoch) {
  return walk(position, numRows, (value, half) => forward(value, half, roundKeys(seed, epoch)));
}

function unpermute(row, numRows, seed, epoch) {
  return walk(row, numRows, (value, half) => backward(value, half, roundKeys(seed, epoch)));
}

// Send a number through a network of 2 x `half` bits until it is below `numRows`.
function walk(number, numRows, network) {
  const bits = numRows > 1 ? BigInt(numRows - 1).toString(2).length : 0;
  const half = BigInt(Math.max(1, (bits + 1) >> 1));
  let value = BigInt(number);
  do value = network(value, half);
  while (value >= BigInt(numRows));
  return Number(value);
}

function forward(value, half, keys) {
  const mask = (1n << half) - 1n;
  let [left, right] = [value >> half, value & mask];
  for (const key of keys) [left, right] = [right, left ^ (mix(right ^ key) & mask)];
  return (left << half) | right;
}

function backward(value, half, keys) {
  const mask = (1n << half) - 1n;
  let [left, right] = [value >> half, value & mask];
  for (const key of keys.toReversed()) [left, right] = [right ^ (mix(left ^ key) & mask), left];
  return (left << half) | right;
}

// The finalizer of SplitMix64, modulo 2^64.
function mix(value) {
  value = BigInt.asUintN(64, (value ^ (value >> 30n)) * 0xbf58476d1ce4e5b9n);
  value = BigInt.asUintN(64, (value ^ (value >> 27n)) * 0x94d049bb133111ebn);
  return value ^ (value >> 31n);
}

const knownKeys = new Map();

function roundKeys(seed, epoch) {
  const name = `everystep-order-v1\n${seed}\n${epoch}\n`;
  if (!knownKeys.has(name)) knownKeys.set(name, Array.from({ length: ROUNDS }, (_, round) => firstWord(name + round)));
  return knownKeys.get(name);
}

// The first 8 bytes of the SHA-256 of an ASCII text, as a big-endian integer.
function firstWord(text) {
  const [high, low] = sha256(new TextEncoder().encode(text));
  return (BigInt(high) << 32n) | BigInt(low);
}

// SHA-256 (FIPS 180-4) as eight words. Browsers have it too, but not for pages from plain http.
function sha256(bytes) {
  const state = Uint32Array.from(SHA256_START);
  const words = new Uint32Array(64);
  const padded = new DataView(new ArrayBuffer(((bytes.length + 8) >> 6) * 64 + 64));
  new Uint8Array(padded.buffer).set(bytes);
  padded.setUint8(bytes.length, 0x80);
  padded.setBigUint64(padded.byteLength - 8, BigInt(bytes.length) * 8n);
  for (let block = 0; block < padded.byteLength; block += 64) {
    for (let t = 0; t < 16; t++) words[t] = padded.getUint32(block + 4 * t);
    for (let t = 16; t < 64; t++) {
      const [near, far] = [words[t - 2], words[t - 15]];
      const low = rotated(near, 17) ^ rotated(near, 19) ^ (near >>> 10);
      words[t] = low + words[t - 7] + (rotated(far, 7) ^ rotated(far, 18) ^ (far >>> 3)) + words[t - 16];
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let t = 0; t < 64; t++) {
      const sum1 = rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25);
      const sum0 = rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22);
      const one = (h + sum1 + ((e & f) ^ (~e & g)) + SHA256_ROUNDS[t] + words[t]) | 0;
      const two = (sum0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [a, b, c, d, e, f, g, h] = [(one + two) | 0, a, b, c, (d + one) | 0, e, f, g];
    }
    [a, b, c, d, e, f, g, h].forEach((word, number) => (state[number] += word));
  }
  return state;
}

function rotated(word, bits) {
  return (word >>> bits) | (word << (32 - bits));
}

const SHA256_START = [
  0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
];

const SHA256_ROUNDS = [
  0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
  0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
  0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
  0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
  0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
  0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
  0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
  0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
];
