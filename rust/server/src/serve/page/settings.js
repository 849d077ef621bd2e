// The sampling settings: fields that are empty are left to the server.

const STORED = "ferrule.settings";

export function openSettings(form) {
  for (const [name, value] of Object.entries(stored())) {
    if (form.elements[name]) form.elements[name].value = value;
  }
  form.addEventListener("input", () => store(form));
  form.addEventListener("reset", () => queueMicrotask(() => localStorage.removeItem(STORED)));
  form.addEventListener("submit", (event) => event.preventDefault());
}

/** What of a request's body the settings say. */
export function sampling(form) {
  const body = {};
  for (const field of form.querySelectorAll("input")) {
    if (field.value === "") continue;
    body[field.name] = field.type === "number" ? Number(field.value) : field.value;
  }
  return body;
}

export const systemPrompt = (form) => form.elements.system.value.trim();

function stored() {
  try {
    return JSON.parse(localStorage.getItem(STORED)) ?? {};
  } catch {
    return {};
  }
}

function store(form) {
  const named = [...form.elements].filter((field) => field.name && field.value !== "");
  localStorage.setItem(STORED, JSON.stringify(Object.fromEntries(named.map((field) => [field.name, field.value]))));
}
