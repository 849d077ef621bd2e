// Talking to the server: the key, errors in words, and streams of events.

const KEY = "ferrule.key";

let key = sessionStorage.getItem(KEY);
let askForKey = async () => null;
let asking = null;

/** Fires `given` when there is a new key. */
export const keys = new EventTarget();

/** `ask(wasRefused)` gives a key, or null. */
export function onKeyNeeded(ask) {
  askForKey = ask;
}

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** GET, or POST if there is a body. Asks for a key when the server does, unless it is to be `quiet`. */
export async function call(path, { body, signal, quiet = false } = {}) {
  for (;;) {
    const used = key;
    const response = await send(path, body, signal);
    if (response.ok) return response;
    if (response.status !== 401) throw new ApiError(response.status, await message(response));
    // Another call may have been given a key meanwhile.
    if (used === key && (quiet || !(await renewKey()))) throw new ApiError(401, "this server needs an API key");
  }
}

function send(path, body, signal) {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  if (!body) return fetch(path, { headers, signal, cache: "no-store" });
  headers["content-type"] = "application/json";
  return fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

/** One question for all calls that wait. */
async function renewKey() {
  asking ??= askForKey(key !== null).finally(() => (asking = null));
  const given = await asking;
  if (given === null) return false;
  key = given;
  sessionStorage.setItem(KEY, key);
  keys.dispatchEvent(new Event("given"));
  return true;
}

async function message(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).error.message;
  } catch {
    return text || `the server answered ${response.status}`;
  }
}

/** The data of each server-sent event. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const frames = (text + value).split("\n\n");
      text = frames.pop();
      for (const frame of frames) yield frame.replace(/^data: /, "");
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
