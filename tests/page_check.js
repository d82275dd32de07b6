// Compares the page's modules with page_vectors.json. An expression, not a module: Node.js and Chromium evaluate it,
// and call what comes out with a function that loads a module, the vectors, and the shipped bundle's tables in base64.
// It gives how many comparisons there were, and what failed.
async (load, vectors, shippedTables) => {
  const failed = [];
  let count = 0;
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const text = (data) => btoa(Array.from(data, (byte) => String.fromCharCode(byte)).join(""));
  const compare = (what, got, want) => {
    count += 1;
    if (JSON.stringify(got) !== JSON.stringify(want)) {
      failed.push(`${what}: ${JSON.stringify(got)?.slice(0, 80)}, not ${JSON.stringify(want)?.slice(0, 80)}`);
    }
  };

  const { Entropy } = await load("entropy.js");
  const { parseTables } = await load("tables.js");
  for (const [number, one] of (vectors.entropy ?? []).entries()) {
    const codec = new Entropy(parseTables(bytes(one.tables ?? shippedTables).buffer), one.latent);
    const symbols = bytes(one.symbols);
    compare(`entropy ${number}`, text(codec.encode(symbols)), one.payload);
    for (const [cut, hat] of one.prefixes) {
      const prefix = bytes(one.payload).subarray(0, cut);
      compare(`entropy ${number} within ${cut}`, text(codec.encode(symbols, cut)), text(prefix));
      compare(`entropy ${number} from ${cut}`, text(codec.decode(prefix)), hat);
    }
  }

  const { makeCodec } = await load("codecs.js");
  const { makeMosaic, tile } = await load("mosaic.js");
  const { scanHeader } = await load("jpeg.js");
  for (const one of vectors.jpeg ?? []) {
    const what = `jpeg ${one.latent} at ${one.quality}`;
    const symbols = bytes(one.symbols);
    const mosaic = makeMosaic(one.latent, one.align);
    compare(`${what}: mosaic`, text(tile(symbols, mosaic)), one.picture);
    compare(`${what}: header`, text(scanHeader(mosaic, one.quality)), one.header);
    const codec = makeCodec({ codec: "jpeg", setting: one.quality, latent: one.latent, align: one.align });
    const { payload, setting } = codec.within(symbols, Infinity);
    compare(what, [text(payload), setting], [one.payload, one.quality]);
    const [smallest] = codec.sizes(symbols);
    compare(`${what}: its smallest`, codec.within(symbols, smallest).payload.length <= smallest, true);
    compare(`${what}: nothing fits`, codec.within(symbols, 1), null);
  }

  const { cropOf, resizeCentre } = await load("resize.js");
  for (const one of vectors.resize ?? []) {
    const crop = cropOf(one.width, one.height, one.preprocess);
    const rgba = new Uint8Array(4 * crop.width * crop.height);
    for (let at = 0; at < rgba.length; at += 1) {
      const [x, y] = [crop.x + ((at >> 2) % crop.width), crop.y + Math.floor((at >> 2) / crop.width)];
      rgba[at] = at % 4 === 3 ? 255 : 37 * x + 91 * y + 53 * (at % 4) + 7 * ((x * y) >> 3);
    }
    const pixels = resizeCentre(rgba, crop, one.width, one.preprocess);
    compare(`resize ${one.width}x${one.height} to ${one.preprocess.size}`, text(pixels), one.pixels);
  }

  const { best, fits, parseAnswer, streamFrame } = await load("frame.js");
  for (const { code, setting, sequence, payload, message } of vectors.frames ?? []) {
    compare("frame", text(streamFrame(code, setting, sequence, bytes(payload))), message);
  }
  const steps = (top) => top.map(({ index, score }) => [index, Math.round(score * 65535)]);
  const boxSteps = (boxes) =>
    boxes.map(({ index, ...shares }) => {
      const { score, left, top, right, bottom } = shares;
      return [index, ...[score, left, top, right, bottom].map((share) => Math.round(share * 65535))];
    });
  for (const { data, means } of vectors.answers ?? []) {
    let got = null;
    try {
      got = parseAnswer(bytes(data).buffer);
      if (got.waitMs !== undefined) {
        const { sequence, waitMs, decodeMs, tailMs, top, boxes } = got;
        const [waitUs, decodeUs, tailUs] = [waitMs, decodeMs, tailMs].map((ms) => Math.round(1e3 * ms));
        got = { sequence, waitUs, decodeUs, tailUs, ...(top ? { top: steps(top) } : { boxes: boxSteps(boxes) }) };
      }
    } catch (error) {
      if (!/no answer/.test(error.message)) throw error;
    }
    compare("answer", got, means);
  }
  for (const { data, classes, fit, detects = false } of vectors.fits ?? []) {
    compare(`an answer fits ${classes} classes`, fits(parseAnswer(bytes(data).buffer), classes, detects), fit);
  }
  const { boxesOf, inWords } = await load("boxes.js");
  for (const { rows, threshold, boxes, words } of vectors.boxes ?? []) {
    const found = boxesOf(Float32Array.from(rows.flat()), threshold);
    compare("boxes of rows", boxSteps(found), boxes);
    compare("boxes in words", inWords(found, ["red", "green"]), words);
  }
  for (const { scores, top } of vectors.scores ?? []) {
    compare("scores", steps(best(Float32Array.from(scores))), top);
  }

  const { LINKS, largestPayload, linkMs } = await load("links.js");
  if (vectors.links) compare("links", Object.keys(LINKS).sort(), Object.keys(vectors.links).sort());
  for (const [key, { name, largest, ms }] of Object.entries(vectors.links ?? {})) {
    compare(`link ${key}`, LINKS[key].name, name);
    compare(`link ${key}: largest`, largestPayload(LINKS[key]), largest ?? null);
    for (const [place, payload] of [100, 210].entries()) {
      compare(`link ${key}: ms`, linkMs(LINKS[key], payload).toFixed(6), ms[place].toFixed(6));
    }
  }
  return { count, failed };
};
