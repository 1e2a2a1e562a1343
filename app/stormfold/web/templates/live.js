"use strict";
(() => {
  const sign = document.getElementById("live");
  const waiting = new Map();
  let events;
  let silence;

  const tell = (state) => {
    sign.dataset.state = sign.textContent = state;
  };
  // What somebody has marked, to copy it, stays as it is.
  const marked = (node) => !getSelection().isCollapsed && getSelection().containsNode(node, true);

  const show = ({ data }) => {
    for (const [id, html] of Object.entries(JSON.parse(data))) waiting.set(id, html);
    for (const [id, html] of waiting) {
      const shown = document.getElementById(id);
      if (marked(shown)) continue;
      shown.replaceWith(new DOMParser().parseFromString(html, "text/html").getElementById(id));
      waiting.delete(id);
    }
    clearTimeout(silence);
    silence = setTimeout(tell, 10000, "not answering");
    tell("live");
  };

  const look = () => {
    events?.close();
    if (document.hidden) return;
    events = new EventSource("events");
    events.onmessage = show;
    events.onerror = () => {
      tell("not answering");
      if (events.readyState === EventSource.CLOSED) setTimeout(look, 5000);
    };
  };

  document.addEventListener("visibilitychange", look);
  look();
})();
