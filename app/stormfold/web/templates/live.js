"use strict";
(() => {
  const badge = document.getElementById("live");
  const pending = new Map();
  let events;
  let silenceTimer;

  const setState = (state) => {
    badge.dataset.state = badge.textContent = state;
  };
  // A section with selected text stays unchanged, so that the text can be copied.
  const isSelected = (node) => !getSelection().isCollapsed && getSelection().containsNode(node, true);

  const update = ({ data }) => {
    for (const [id, html] of Object.entries(JSON.parse(data))) pending.set(id, html);
    for (const [id, html] of pending) {
      const section = document.getElementById(id);
      if (isSelected(section)) continue;
      section.replaceWith(new DOMParser().parseFromString(html, "text/html").getElementById(id));
      pending.delete(id);
    }
    clearTimeout(silenceTimer);
    silenceTimer = setTimeout(setState, 10000, "not answering");
    setState("live");
  };

  const connect = () => {
    events?.close();
    if (document.hidden) return;
    events = new EventSource("events");
    events.onmessage = update;
    events.onerror = () => {
      setState("not answering");
      if (events.readyState === EventSource.CLOSED) setTimeout(connect, 5000);
    };
  };

  document.addEventListener("visibilitychange", connect);
  connect();
})();
