// The camera: a picture of what it sees, taken when the button is pressed.

import { Problem } from "./problems.js";

const WHY = {
  NotAllowedError: "The camera was refused. Allow it for this page in the browser's settings, or choose a photo.",
  NotFoundError: "This device has no camera. Choose a photo instead.",
  NotReadableError: "Another program is using the camera. Close that program, or choose a photo.",
};

export class Camera {
  #video;
  #stream = null;

  constructor(video) {
    this.#video = video;
  }

  /** Shows what it sees. Problem: there is none, it was refused, or the page may not use it. */
  async open() {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Problem(
        "photo",
        "Browsers give the camera only to pages that came over https or from this machine. Choose a photo instead.",
      );
    }
    try {
      const wanted = { facingMode: "environment", width: { ideal: 1280 }, height: { ideal: 960 } };
      this.#stream = await navigator.mediaDevices.getUserMedia({ video: wanted, audio: false });
    } catch (error) {
      throw new Problem(
        "photo",
        WHY[error.name] ?? `The camera can't be used (${error.name}). Choose a photo instead.`,
      );
    }
    this.#video.srcObject = this.#stream;
    await this.#video.play();
  }

  /** What it sees now, as a photo. */
  async shoot() {
    return { source: await createImageBitmap(this.#video), name: "camera", width: 0, height: 0 };
  }

  close() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#stream = null;
    this.#video.srcObject = null;
  }
}
