// Ways to a photo: a file, a drop, the clipboard, the camera, or one that comes with the page.

import { ROOT, get } from "./bundle.js";
import { Camera } from "./camera.js";
import { byId, make } from "./dom.js";
import { hideProblem } from "./notices.js";
import { Problem } from "./problems.js";

const camera = new Camera(byId("video"));

/** `classify` gets each {source, name, width, height}; `refuse` a Problem and, maybe, what to try again. */
export function offerPhotos(classify, refuse) {
  const take = (file, sample = null) => {
    for (const button of byId("samples").querySelectorAll("button")) button.ariaPressed = String(button === sample);
    closeCamera();
    measured(file).then(classify, refuse);
  };
  byId("file").addEventListener("change", ({ target }) => {
    if (target.files.length) take(target.files[0]);
    target.value = ""; // so that the same one may be chosen again
  });
  onDrop(take);
  document.addEventListener("paste", ({ clipboardData }) => {
    if (clipboardData.files.length) take(clipboardData.files[0]);
  });
  onCamera(classify, refuse);
  showSamples(take, refuse).catch(() => {}); // without them there are other ways to a photo
}

/** A file with its size in pixels, which the browser reads without decoding the rest. Problem: it is no photo. */
async function measured(file) {
  const image = new Image();
  image.src = URL.createObjectURL(file);
  try {
    await new Promise((resolve, reject) => Object.assign(image, { onload: resolve, onerror: reject }));
  } catch {
    const advice = "Choose a JPEG, PNG, WebP or AVIF file";
    throw new Problem("photo", `${file.name} is no photo that this browser can open. ${advice}.`);
  } finally {
    URL.revokeObjectURL(image.src);
  }
  return { source: file, name: file.name || "photo", width: image.naturalWidth, height: image.naturalHeight };
}

function onDrop(take) {
  const { classList } = document.body;
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    classList.add("dropping");
  });
  document.addEventListener("dragleave", ({ relatedTarget }) => relatedTarget ?? classList.remove("dropping"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    classList.remove("dropping");
    if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
  });
}

function onCamera(classify, refuse) {
  byId("camera").addEventListener("click", async () => {
    hideProblem();
    try {
      await camera.open();
      byId("finder").hidden = false;
      byId("shoot").focus();
    } catch (error) {
      refuse(error);
    }
  });
  byId("shoot").addEventListener("click", () => camera.shoot().then(classify, refuse));
  byId("close-camera").addEventListener("click", () => {
    closeCamera();
    byId("camera").focus();
  });
}

function closeCamera() {
  camera.close();
  byId("finder").hidden = true;
}

async function showSamples(take, refuse) {
  const names = await (await get(new URL("page/photos", ROOT))).json();
  const items = names.map((name) => {
    const what = name.replace(/\.\w+$/, "").replaceAll("_", " ");
    const src = new URL(`page/photos/${name}`, ROOT);
    const image = make("img", { src, alt: what, loading: "lazy", width: 68, height: 68 });
    const button = make("button", { type: "button", ariaPressed: "false" }, image);
    button.addEventListener("click", async () => {
      try {
        const blob = await (await get(src)).blob();
        take(new File([blob], what, { type: blob.type }), button);
      } catch (error) {
        refuse(error, () => button.click());
      }
    });
    return make("li", {}, button);
  });
  byId("samples").replaceChildren(...items);
}
