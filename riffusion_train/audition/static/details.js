// The details of a clip: its settings, its measures, the command that makes it, and its files.
const SETTING_NAMES = {
  negative_prompt: "negative prompt", seed: "seed", guidance_scale: "guidance scale", num_inference_steps: "denoising steps",
  scheduler: "scheduler", quality: "sound quality", model: "model", model_fingerprint: "UNet fingerprint",
  assumed_spectrogram: "codec assumed",
};

function facts(cell) {
  const version = versions.get(cell.version), entries = [["version", version.name]];
  if (version.step !== null) entries.push(["training step", version.step.toLocaleString("en")]);
  if (version.note) entries.push(["figures", version.note]);
  entries.push(["source", version.source]);
  for (const [name, value] of Object.entries(cell.settings)) {
    if (name === "prompt" || value === "" || value === null || value === false) continue;
    entries.push([SETTING_NAMES[name] || name.replaceAll("_", " "), typeof value === "object" ? JSON.stringify(value) : value === true ? "yes" : value]);
  }
  entries.push(["length", `${cell.duration_s.toFixed(2)} s`]);
  for (const metric of site.metrics) entries.push([metric.label, formatted(metric.name, measure(cell, metric.name))]);
  if (cell.key) entries.push(["key", cell.key]);
  if (cell.is_copy !== undefined) entries.push(["copy check", `${cell.is_copy ? "flagged" : "not flagged"}: ${cell.nearest}`]);
  if (ratings.of(cell)) entries.push(["your rating", `${ratings.of(cell)} of 5`]);
  return entries;
}

function openSheet(cell) {
  if (!cell || blind.on) return;
  byId("sheet-title").textContent = versions.get(cell.version).name;
  byId("sheet-prompt").textContent = cell.settings.prompt || "(no prompt)";
  byId("sheet-facts").replaceChildren(...facts(cell).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, String(value)))));
  const command = byId("sheet-command");
  command.textContent = cell.command;
  command.closest(".command").hidden = !cell.command;
  command.closest(".command").previousElementSibling.hidden = !cell.command;
  for (const [id, path] of [["sheet-audio", cell.audio], ["sheet-image", cell.image], ["sheet-settings", `${cell.stem}.json`]]) {
    const link = byId(id), kind = path.slice(path.lastIndexOf(".") + 1), name = path.slice(path.lastIndexOf("/") + 1);
    link.href = address(path);
    // A page from disk cannot offer downloads: the file opens in a new tab and can be saved from there.
    if (fromDisk) { link.target = "_blank"; link.rel = "noopener"; } else link.setAttribute("download", name);
    link.textContent = `${fromDisk ? "Open" : "Download"} ${kind}`;
  }
  byId("sheet").showModal();
}

function makeCopy(box) {
  box.append(make("button", { type: "button", class: "copy", onclick: () => copy(box.querySelector("code").textContent, "Command copied") }, "Copy"));
}
