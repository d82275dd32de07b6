// What links are like: the presets of plan/link.py, which has the sources. A test holds both together.

const STREAM_OVERHEAD_BYTES = 4 + 8 + 40; // frame, WebSocket, TCP/IP
const FRAME_BYTES = 12;
const ANSWER_BYTES = 34;

/** A link that carries WebSocket over TCP. */
function stream(name, uplinkBps, roundTripS, downlinkBps = Infinity) {
  return { name, uplinkBps, downlinkBps, roundTripS, overheadBytes: STREAM_OVERHEAD_BYTES, maxMessageBytes: Infinity };
}

/** A link that carries whole messages, with `around` bytes of its own about a frame. */
function inMessages(name, bps, roundTripS, maxMessageBytes, around) {
  return { name, uplinkBps: bps, downlinkBps: bps, roundTripS, overheadBytes: FRAME_BYTES + around, maxMessageBytes };
}

export const LINKS = {
  "3g": stream("3G", 1.1e6, 0.1),
  "4g": stream("4G", 5.85e6, 0.05),
  wifi: stream("Wi-Fi", 18.88e6, 0.005),
  "5g": stream("5G", 21.08e6, 0.047, 166.13e6),
  "lte-m": stream("LTE-M", 375e3, 0.1, 300e3),
  "nb-iot": stream("NB-IoT", 62e3, 1.6, 26e3),
  lorawan: inMessages("LoRaWAN", 5470, 1, 222, 13),
  "iridium-sbd": inMessages("Iridium SBD", 1045, 10, 340, 0),
};

/** Milliseconds from sending a payload to its answer, without computing at either end; the planner's, without loss. */
export function linkMs(link, payloadBytes) {
  const sentS = ((payloadBytes + link.overheadBytes) * 8) / link.uplinkBps;
  return 1e3 * (link.roundTripS + sentS + (ANSWER_BYTES * 8) / link.downlinkBps);
}

/** The largest payload that the link carries in one message; Infinity: any. */
export function largestPayload(link) {
  return link.maxMessageBytes - FRAME_BYTES;
}
