// What the page says about itself: how it stands, what went wrong, and that it needs a token.

import { byId } from "./dom.js";
import { Problem, packed } from "./problems.js";

const TOKEN = /^[A-Za-z0-9._~+/-]{16,512}={0,2}$/;
const BUTTONS = { retry: "Try again", reload: "Try again", photo: "Choose another photo" };

/** How it stands; read out where somebody listens. */
export function say(text) {
  byId("state").textContent = text;
}

/** What went wrong, and a button for the way on, where `ways` has one for its kind. */
export function showProblem(error, ways = {}) {
  const { kind, message } = packed(error);
  const way = kind === "photo" ? () => byId("file").click() : ways[kind];
  const box = byId("problem");
  const [text, button] = box.children;
  text.textContent = message;
  button.hidden = !way;
  button.textContent = BUTTONS[kind] ?? "";
  button.onclick = way;
  box.hidden = false;
  if (kind === "token") {
    byId("access").hidden = false;
    byId("token").focus();
  }
}

export function hideProblem() {
  byId("problem").hidden = true;
}

/** The token of this tab; "" where there is none. */
export function storedToken() {
  try {
    return sessionStorage.getItem("token") ?? "";
  } catch {
    return ""; // the browser keeps nothing
  }
}

/** Calls `use` with each token that is typed in. */
export function onToken(use) {
  byId("access").addEventListener("submit", (event) => {
    event.preventDefault();
    const token = byId("token").value.trim();
    if (!TOKEN.test(token)) {
      const allowed = "16 to 512 of the characters A-Z a-z 0-9 - . _ ~ + /";
      showProblem(new Problem("token", `This is no token: a token has ${allowed}. Type it again.`));
      return;
    }
    try {
      sessionStorage.setItem("token", token);
    } catch {
      // it is asked for again after the next load
    }
    byId("token").value = "";
    byId("access").hidden = true;
    use(token);
  });
}
