// `element` is Gradio's wrapper of the answers: its content changes, it stays. The player is in #player.
const player = () => document.querySelector("#player video");
let until = null;  // second at which a played answer ends

const go = (start, end = null) => {
  const video = player();
  if (!video) return;
  video.currentTime = start + 0.001;  // the frame that begins here, not the one before
  until = end;
  if (end !== null) video.play().catch(() => {});
};

const mark = (row) => {  // the frames inside the visible answer
  const spans = [...row.querySelectorAll(".answer:not([hidden]) .span")];
  element.querySelectorAll("li.chosen").forEach(li => li.classList.remove("chosen"));
  row.classList.add("chosen");
  element.querySelectorAll(".frame").forEach(frame => {
    const t = +frame.dataset.at, inside = spans.some(span => t >= +span.dataset.start && t < +span.dataset.end);
    frame.classList.toggle("inside", inside);
    frame.setAttribute("aria-label", `frame at ${+t.toFixed(1)} s${inside ? ", inside the answer" : ""}`);
  });
  const first = element.querySelector(".frame.inside"), strip = element.querySelector(".strip");
  if (first) strip.scrollLeft = first.offsetLeft - strip.offsetLeft - 40;
};

const choose = (number) => {  // the model whose answers are visible
  element.querySelectorAll("[data-show]").forEach(b => {
    b.setAttribute("aria-checked", String(b.dataset.show === number));
    b.tabIndex = b.dataset.show === number ? 0 : -1;
  });
  element.querySelectorAll(".answer").forEach(answer => { answer.hidden = answer.dataset.model !== number; });
  mark(element.querySelector("li.chosen") || element.querySelector(".answers > li"));
};

element.addEventListener("click", (event) => {
  const at = (what) => event.target.closest(what);
  const span = at(".span"), frame = at(".frame"), show = at("[data-show]"), track = at(".track"), row = at(".answers > li");
  if (show) return choose(show.dataset.show);
  if (row) mark(row);
  if (span) go(+span.dataset.start, +span.dataset.end);
  else if (frame) go(+frame.dataset.at);
  else if (track) {
    const box = track.getBoundingClientRect();
    go((event.clientX - box.left) / box.width * +element.querySelector(".vtg").dataset.duration);
  }
});

element.addEventListener("keydown", (event) => {
  if (!event.target.closest("[data-show]") || !event.key.startsWith("Arrow")) return;
  const other = element.querySelector('[data-show][aria-checked="false"]');
  choose(other.dataset.show);
  other.focus();
});

document.addEventListener("timeupdate", (event) => {  // media events do not bubble, but they are captured
  const video = event.target, page = element.querySelector(".vtg");
  if (video !== player() || !page) return;
  if (until !== null && video.currentTime >= until) {  // stay on the last frame inside
    video.pause();
    video.currentTime = until - 0.01;
    until = null;
  }
  const share = Math.min(1, video.currentTime / +page.dataset.duration);
  element.querySelectorAll(".now").forEach(now => { now.style.left = `${100 * share}%`; });
}, true);
