// One clip plays at a time. Another version of the same row continues at the same position.
const player = {
  cell: null,
  audio: null,
  sounds: new Map(),
  loop: true,
  equal: true,
  volumeFixed: false,
  shouldPlay: false, // stays true while the next clip is still loading

  sound(cell) {
    let audio = this.sounds.get(cell.id);
    if (!audio) {
      audio = new Audio();
      audio.preload = "auto";
      audio.src = address(cell.audio);
      for (const name of ["play", "pause", "ended", "timeupdate", "seeked", "loadedmetadata"]) {
        audio.addEventListener(name, () => { if (audio === this.audio) this.changed(name); });
      }
      audio.addEventListener("error", () => {
        if (audio === this.audio) { this.pause(); this.changed("pause"); say(`${nameOf(cell)} cannot be played: is its file still beside this page?`); }
      });
      this.sounds.set(cell.id, audio);
    }
    return audio;
  },

  get playing() { return Boolean(this.audio) && !this.audio.paused; },
  get time() { return this.audio ? this.audio.currentTime : 0; },
  get length() { return this.cell ? this.cell.duration_s : 0; },

  /** Select a clip: at a time, or at the position of the last one; playing or not, or as the last one did. */
  select(cell, { at = this.time, play = this.shouldPlay } = {}) {
    const before = this.audio, old = this.cell;
    if (before && old !== cell) before.pause();
    this.cell = cell;
    this.audio = this.sound(cell);
    this.adjust();
    const start = Math.min(Math.max(at, 0), Math.max(cell.duration_s - 0.01, 0));
    if (old !== cell || Math.abs(this.audio.currentTime - start) > 0.001) this.audio.currentTime = start;
    this.release();
    for (const other of rows.get(cell.row)) this.sound(other); // so that switching does not wait
    selected(old, cell);
    if (play) this.play(); else if (old === cell) this.pause();
  },

  play() {
    if (!this.audio) return;
    this.shouldPlay = true;
    this.audio.play().catch((error) => {
      if (error.name === "AbortError") return; // another clip was selected first
      this.shouldPlay = false;
      if (error.name === "NotAllowedError") say("Press play: the browser waits for a click");
      this.changed("pause");
    });
  },
  pause() { this.shouldPlay = false; if (this.audio) this.audio.pause(); },
  toggle() { if (this.playing) this.pause(); else this.play(); },
  seek(to) {
    if (!this.audio) return;
    this.audio.currentTime = Math.min(Math.max(to, 0), Math.max(this.length - 0.01, 0));
    draw();
  },

  /** Turn the clip down to the common loudness; a page cannot turn it up. */
  adjust() {
    if (!this.audio) return;
    const loudness = this.cell.heard_lufs;
    const gain_db = this.equal && loudness !== null && site.target_lufs !== null ? Math.min(0, site.target_lufs - loudness) : 0;
    const volume = 10 ** (gain_db / 20);
    this.audio.loop = this.loop;
    this.audio.volume = volume;
    if (Math.abs(this.audio.volume - volume) > 0.001 && !this.volumeFixed) {
      this.volumeFixed = true; // iOS: only the phone's buttons change the volume
      say("On this device a page cannot set the volume: loudness is not matched");
    }
  },

  /** Unload the sounds of other rows, so that a large grid does not fill the memory. */
  release() {
    for (const [id, audio] of this.sounds) {
      if (cells.get(id).row === this.cell.row) continue;
      audio.removeAttribute("src");
      audio.load();
      this.sounds.delete(id);
    }
  },

  changed(name) {
    if (name === "ended") { this.shouldPlay = false; this.audio.currentTime = 0; }
    if (name !== "timeupdate") showState();
    if (name === "play" && !reducedMotion.matches) requestAnimationFrame(frame);
    draw();
    if (["pause", "ended", "seeked"].includes(name)) writeLink();
  },
};

function frame() {
  if (!player.playing || reducedMotion.matches) return;
  draw();
  requestAnimationFrame(frame);
}

/** Move the playheads of the image and of the player. */
function draw() {
  if (!player.cell) return;
  const at = player.time, of = player.length, text = `${at.toFixed(1)} of ${of.toFixed(1)} seconds`;
  const position = byId("position");
  position.max = of.toFixed(2);
  position.value = at.toFixed(2);
  position.setAttribute("aria-valuetext", text);
  byId("time").textContent = `${at.toFixed(1)} / ${of.toFixed(1)} s`;
  const tile = tileOf(player.cell);
  if (tile) {
    tile.playhead.hidden = false;
    tile.playhead.style.left = `${of ? (100 * at) / of : 0}%`;
    tile.spectrogram.setAttribute("aria-valuenow", at.toFixed(2));
    tile.spectrogram.setAttribute("aria-valuetext", text);
  }
}

/** Show on every button whether its clip plays. */
function showState() {
  const cell = player.cell, button = byId("toggle"), on = player.playing;
  button.replaceChildren(icon(on ? "pause" : "play"));
  button.setAttribute("aria-label", on ? "Pause" : "Play");
  for (const tile of tiles.values()) {
    const mine = tile.cell === cell;
    tile.element.classList.toggle("is-current", mine);
    tile.element.classList.toggle("is-playing", mine && on);
    if (tile.shown === (mine && on)) continue;
    tile.shown = mine && on;
    tile.button.replaceChildren(icon(tile.shown ? "pause" : "play"));
    tile.button.setAttribute("aria-label", `${tile.shown ? "Pause" : "Play"} ${tile.label}`);
  }
}

/** Update the page after another clip was selected. */
function selected(old, cell) {
  const tile = old && tileOf(old);
  if (tile && old !== cell) tile.playhead.hidden = true;
  byId("player").hidden = false;
  byId("now-prompt").textContent = cell.settings.prompt || "(no prompt)";
  byId("now-version").textContent = `${nameOf(cell)} · seed ${cell.settings.seed}`;
  byId("details").hidden = blind.on;
  showChips();
  showStars();
  showState();
  draw();
  writeLink();
}
