// @ts-check
// Keyboard shortcuts; the help is made from the same table.
import { byId, make } from "./elements.js";
/** @typedef {{ keys: string[], shown: string, does: string, run: (key: string) => void, typing?: boolean }} Key */

/** @param {Key[]} keys */
export function makeKeys(keys) {
  byId("help").querySelector("dl")?.replaceChildren(...keys.map((key) => make("div", {},
    make("dt", {}, ...key.shown.split(" ").map((one) => make("kbd", {}, one))), make("dd", {}, key.does))));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || event.isComposing) return;
    const key = keys.find((one) => one.keys.includes(event.key));
    if (!key || document.querySelector("dialog[open]")) return;
    const target = event.target instanceof Element ? event.target : null;
    if (target?.matches("input:not([type=range]):not([type=checkbox]):not([type=radio]), textarea, select") && !key.typing) return;
    // A key that the focused control itself uses is left to that control.
    if ((event.key === " " || event.key === "Enter") && target?.closest("button, a, summary")) return;
    if (/^(Arrow|Page|Home|End)/.test(event.key) && target?.matches("input[type=range]")) return;
    if (event.repeat && !event.key.startsWith("Arrow")) return;
    event.preventDefault();
    key.run(event.key);
  });
}
