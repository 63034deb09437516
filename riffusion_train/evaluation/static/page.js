"use strict";
(() => {
  const PLAY = '<svg viewBox="0 0 16 16" aria-hidden="true"><path d="M3.5 1.6v12.8L14 8z"/></svg>';
  const PAUSE = '<svg viewBox="0 0 16 16" aria-hidden="true"><path d="M3 2h3.6v12H3zM9.4 2H13v12H9.4z"/></svg>';
  const STEP_S = 0.25;
  let current = null; // the clip that plays: one at a time

  for (const clip of document.querySelectorAll(".clip")) makePlayer(clip);
  for (const box of document.querySelectorAll(".command")) makeCopy(box);

  function makePlayer(clip) {
    const audio = clip.querySelector("audio");
    const image = clip.querySelector(".image");
    const playhead = clip.querySelector(".playhead");
    const label = clip.dataset.label;
    const controls = document.createElement("div");
    const button = document.createElement("button");
    const time = document.createElement("span");
    const length = () => (Number.isFinite(audio.duration) ? audio.duration : 0);
    controls.className = "controls";
    button.type = "button";
    time.className = "time";
    controls.append(button, time);
    audio.removeAttribute("controls");
    audio.after(controls);
    audio.hidden = true;
    image.tabIndex = 0;
    image.setAttribute("role", "slider");
    image.setAttribute("aria-label", `Position in ${label}`);
    image.setAttribute("aria-valuemin", "0");

    const show = () => {
      const at = audio.currentTime, of = length();
      playhead.hidden = at === 0 && audio.paused;
      playhead.style.left = `${of ? (100 * at) / of : 0}%`;
      time.textContent = of ? `${at.toFixed(1)} / ${of.toFixed(1)} s` : "";
      image.setAttribute("aria-valuemax", of.toFixed(2));
      image.setAttribute("aria-valuenow", at.toFixed(2));
      image.setAttribute("aria-valuetext", `${at.toFixed(1)} of ${of.toFixed(1)} seconds`);
      if (!audio.paused) requestAnimationFrame(show);
    };
    const state = () => {
      clip.classList.toggle("is-playing", !audio.paused);
      button.innerHTML = audio.paused ? PLAY : PAUSE;
      button.setAttribute("aria-label", `${audio.paused ? "Play" : "Pause"} ${label}`);
      show();
    };
    const play = () => audio.play().catch(() => {}); // another clip was played first, or the file is gone: shown below
    const toggle = () => (audio.paused ? play() : audio.pause());
    const seek = (to) => { audio.currentTime = Math.min(Math.max(to, 0), length()); show(); };

    button.addEventListener("click", toggle);
    image.addEventListener("click", (event) => {
      const box = image.getBoundingClientRect();
      seek((length() * (event.clientX - box.left)) / box.width);
      play();
    });
    image.addEventListener("keydown", (event) => {
      const act = {
        " ": toggle, Enter: toggle,
        ArrowRight: () => seek(audio.currentTime + STEP_S), ArrowUp: () => seek(audio.currentTime + STEP_S),
        ArrowLeft: () => seek(audio.currentTime - STEP_S), ArrowDown: () => seek(audio.currentTime - STEP_S),
        Home: () => seek(0), End: () => seek(length()),
      }[event.key];
      if (act) { event.preventDefault(); act(); }
    });
    audio.addEventListener("play", () => {
      if (current && current !== audio) current.pause();
      current = audio;
      state();
    });
    audio.addEventListener("pause", state);
    audio.addEventListener("ended", () => { audio.currentTime = 0; state(); });
    audio.addEventListener("loadedmetadata", show);
    audio.addEventListener("error", () => { time.textContent = "cannot be played"; });
    state();
  }

  function makeCopy(box) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      const code = box.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 1600);
    });
    box.append(button);
  }
})();
