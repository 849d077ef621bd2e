// Puts the page together: models, key, theme, and which part a narrow window shows.

import { call, keys, onKeyNeeded } from "./api.js";
import { openChat } from "./chat.js";
import { byId, el } from "./dom.js";
import { openEngine, redraw } from "./engine.js";
import { openSettings } from "./settings.js";

const THEME = "ferrule.theme";
const THEMES = { auto: "light dark", light: "light", dark: "dark" };

function openTheme() {
  let theme = localStorage.getItem(THEME) in THEMES ? localStorage.getItem(THEME) : "auto";
  const apply = () => {
    document.documentElement.style.colorScheme = THEMES[theme];
    byId("theme").textContent = `Theme: ${theme}`;
    redraw();
  };
  byId("theme").addEventListener("click", () => {
    const names = Object.keys(THEMES);
    theme = names[(names.indexOf(theme) + 1) % names.length];
    localStorage.setItem(THEME, theme);
    apply();
  });
  apply();
}

function openViews() {
  const buttons = [...document.querySelectorAll("[data-show]")];
  for (const button of buttons) {
    button.addEventListener("click", () => {
      document.body.dataset.view = button.dataset.show;
      for (const each of buttons) each.setAttribute("aria-pressed", each === button);
      redraw();
    });
  }
}

function openKeyDialog() {
  const dialog = byId("key-dialog");
  onKeyNeeded((wasRefused) => {
    if (wasRefused) byId("key-message").textContent = "The server does not know this key. Try another one.";
    byId("key").value = "";
    dialog.returnValue = "";
    dialog.showModal();
    return new Promise((resolve) => {
      const done = () => resolve(dialog.returnValue === "given" ? byId("key").value.trim() : null);
      dialog.addEventListener("close", done, { once: true });
    });
  });
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    dialog.close("given");
  });
  byId("key-cancel").addEventListener("click", () => dialog.close("cancelled"));
}

async function listModels() {
  const { data } = await (await call("v1/models")).json();
  byId("model").replaceChildren(...data.map(({ id }) => el("option", { value: id }, id)));
}

function showState(state) {
  byId("state-dot").className = state.replace(" ", "-");
  // A status that is written again would be read again.
  if (byId("state").textContent !== state) byId("state").textContent = state;
}

function openSettingsPanel() {
  const toggle = byId("toggle-settings");
  toggle.addEventListener("click", () => {
    byId("settings").hidden = !byId("settings").hidden;
    toggle.setAttribute("aria-expanded", !byId("settings").hidden);
  });
  openSettings(byId("settings"));
}

openKeyDialog();
openTheme();
openViews();
openSettingsPanel();
openChat();
// Without a list the server's only model is asked.
await listModels().catch((error) => showState(error.message));
keys.addEventListener("given", listModels);
openEngine(showState);
