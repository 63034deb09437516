// One sound at a time: that of an image, or of the audio file. Switching between them keeps the position.
const player = { slice: null, audio: null, original: false };
const tiles = new Map(); // slice -> its elements on the page

const fileOf = (slice) => `page/${player.original && slice.audio ? slice.audio : slice.sound}`;

function start(slice, at = 0) {
  if (player.audio) player.audio.pause();
  player.slice = slice;
  const audio = new Audio(fileOf(slice));
  player.audio = audio;
  audio.addEventListener("ended", () => { if (audio === player.audio) stopped(); });
  audio.addEventListener("pause", () => { if (audio === player.audio) showPlaying(); });
  audio.addEventListener("play", () => { if (audio === player.audio) { showPlaying(); requestAnimationFrame(frame); } });
  audio.addEventListener("timeupdate", () => { if (audio === player.audio) drawHead(); });
  audio.addEventListener("error", () => {
    if (audio !== player.audio) return;
    stopped();
    say("This sound cannot be played: is the folder “page” still beside this page?");
  });
  if (at > 0) audio.addEventListener("loadedmetadata", () => { audio.currentTime = Math.min(at, Math.max(audio.duration - 0.05, 0)); }, { once: true });
  audio.play().catch((error) => { if (error.name === "NotAllowedError") say("Press play: the browser waits for a click"); });
}

function stopped() { player.audio = null; showPlaying(); }

function togglePlay(slice) {
  if (player.slice !== slice || !player.audio) start(slice);
  else if (player.audio.paused) player.audio.play().catch(() => {});
  else player.audio.pause();
}

function setOriginal(on) {
  player.original = on;
  byId("original").checked = on;
  if (player.audio && !player.audio.paused && player.slice.audio) start(player.slice, player.audio.currentTime);
  say(on ? "Playing the audio files" : "Playing the images");
}

/** Play the slice before or after, in the order of the page. */
function step(by) {
  const order = [...document.querySelectorAll(".slice")].map((element) => element.slice);
  const next = order[player.slice ? order.indexOf(player.slice) + by : 0];
  if (!next) return;
  start(next);
  tiles.get(next).element.scrollIntoView({ block: "nearest", behavior: reducedMotion.matches ? "instant" : "smooth" });
}

function frame() {
  if (!player.audio || player.audio.paused || reducedMotion.matches) return;
  drawHead();
  requestAnimationFrame(frame);
}

function drawHead() {
  const tile = player.slice && tiles.get(player.slice);
  if (!tile || !player.audio) return;
  tile.head.style.left = `${Math.min(100, (100 * player.audio.currentTime) / site.clip_s)}%`;
}

function showPlaying() {
  for (const [slice, tile] of tiles) {
    const mine = slice === player.slice && player.audio !== null, on = mine && !player.audio.paused;
    if (tile.on === on && tile.mine === mine) continue;
    Object.assign(tile, { on, mine });
    tile.element.classList.toggle("is-playing", on);
    tile.head.hidden = !mine;
    tile.button.replaceChildren(icon(on ? "pause" : "play"));
    tile.button.setAttribute("aria-label", `${on ? "Pause" : "Play"} ${tile.label}`);
  }
}
