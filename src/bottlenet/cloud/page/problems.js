// What can go wrong for a person, each in a sentence that says what happened, and what to do about it.

/** `kind` says which way on the page offers: "token", "reload", "retry", "photo" or "none". */
export class Problem extends Error {
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

/** An error as it crosses from the worker, and back. What nobody expects is worth another try. */
export function packed(error) {
  const kind = error instanceof Problem ? error.kind : "retry";
  const message =
    error instanceof Problem ? error.message : `Something unexpected went wrong (${error?.message ?? error}).`;
  return { kind, message };
}

export function unpacked({ kind, message }) {
  return new Problem(kind, message);
}

/** Bytes for people. */
export function size(bytes) {
  if (bytes < 1e4) return `${bytes.toLocaleString("en")} bytes`;
  return bytes < 1e6 ? `${Math.round(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}
