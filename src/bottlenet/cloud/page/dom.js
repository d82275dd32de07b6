// Short names for what view.js does to the page.

/** The element with an id. */
export const byId = (id) => document.getElementById(id);

/** A new element with properties, and children that are elements or text. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** A bar, for the eye only: the number stands beside it. */
export function bar(share) {
  const element = make("span", { className: "bar", ariaHidden: "true" });
  element.style.setProperty("--share", Math.min(1, Math.max(0, share)));
  return element;
}

/** Milliseconds for people. */
export function milliseconds(ms) {
  if (ms >= 1e4) return `${(ms / 1e3).toFixed(1)} s`;
  return ms >= 99.95 ? `${Math.round(ms).toLocaleString("en")} ms` : `${ms.toFixed(1)} ms`;
}

export function percent(share) {
  return share < 0.005 ? "<1 %" : `${Math.round(100 * share)} %`;
}

export function count(number) {
  return number.toLocaleString("en");
}
